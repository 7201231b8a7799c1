"""The links between the GPUs of a tensor-parallel group."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations

from serve_app.config.tiers import TierConfig
from serve_app.offline.doctor.cards import Card, Run
from serve_app.offline.doctor.finding import CheckResult, Level, note, ok

Links = Mapping[tuple[int, int], str]
"""The link by the indices of two GPUs, as `nvidia-smi topo -m` names it: `NV18`, `PHB`, `SYS`."""

_ANSI = re.compile(r"\x1b\[[0-9;]*m")


def check_links(
    tiers: Iterable[TierConfig], cards: Sequence[Card], run: Run
) -> Iterator[CheckResult]:
    """Check that a tier that spreads a layer over several cards has NVLink between them."""
    sizes = [(tier.name, tier.tensor_parallel_size) for tier in tiers]
    groups = [(name, size) for name, size in sizes if 1 < size <= len(cards)]
    if not groups:
        return
    links = read_links(run(["topo", "-m"]) or "")
    if not links:
        yield note("GPU links", "nvidia-smi topo -m does not report the links")
        return
    for name, size in groups:
        yield _judge_links(name, size, [card.index for card in cards], links)


def _judge_links(tier: str, size: int, indices: Sequence[int], links: Links) -> CheckResult:
    """Check the tier's groups on an empty node, where Ray assigns GPUs by their index."""
    starts = range(0, len(indices) - size + 1, size)
    pairs = [pair for at in starts for pair in combinations(indices[at : at + size], 2)]
    kinds = {pair: links.get(pair, links.get(pair[::-1], "?")) for pair in pairs}
    slow = {pair: kind for pair, kind in kinds.items() if not kind.startswith("NV")}
    if not slow:
        named = ", ".join(dict.fromkeys(kinds.values()))
        return ok("GPU links", f"{tier}: {named} within every group of {size}")
    (first, second), kind = next(iter(slow.items()))
    return CheckResult(
        Level.WARNING,
        "GPU links",
        f"{tier}: no NVLink between {len(slow)} of {len(kinds)} pairs within groups of {size}: "
        f"GPU {first} and GPU {second} have {kind}",
        "Tensor parallelism exchanges data after every layer. Over PCIe, the exchange costs much "
        "of the gain from more GPUs, and vLLM's own all-reduce is off for more than two such "
        "cards.",
        "Use fewer GPUs per group (a quantised model), or pipeline parallelism.",
    )


def read_links(text: str) -> Links:
    """The matrix of `nvidia-smi topo -m`; its first line is underlined even in a pipe."""
    lines = [_ANSI.sub("", line).split() for line in text.splitlines()]
    header = next((line for line in lines if line[:1] == ["GPU0"] and "X" not in line), [])
    columns = [(at, int(name[3:])) for at, name in enumerate(header) if _is_gpu(name)]
    return {
        (int(line[0][3:]), column): line[1 + at]
        for line in lines
        if line and line is not header and _is_gpu(line[0])
        for at, column in columns
        if 1 + at < len(line)
    }


def _is_gpu(word: str) -> bool:
    return word.startswith("GPU") and word[3:].isdecimal()
