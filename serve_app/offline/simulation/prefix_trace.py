"""Traces of calls that share beginnings, in the format of Mooncake's published traces.

A line names the blocks of 512 tokens of a prompt; equal names mean an equal prompt up to there.
For more load than the trace's own, several copies of it run at once, each shifted in time and with
blocks of its own. Blocks that many calls have (a system prompt) are the same in all copies. A
faster replay would bring the next turn of a conversation before the last one is answered.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from serve_app.core.prefix import PrefixKeys, prefix_keys

BLOCK_TOKENS = 512
BYTES_PER_TOKEN = 4
"""The text of a prompt is made up: so many bytes a token, other bytes for each block."""
SHARED_RATIO = 0.01
"""A block that a larger part of the calls has is the same in all copies."""


@dataclass(frozen=True, slots=True)
class TraceLine:
    """One call of a trace, at a time in seconds."""

    at_s: float
    prompt_tokens: int
    output_tokens: int
    blocks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PrefixCall:
    """One call with the keys that a Router would make of its text."""

    arrived_s: float
    prompt_tokens: int
    output_tokens: int
    blocks: tuple[int, ...]
    """The full blocks of the prompt: only these are cached."""
    keys: PrefixKeys


def read_trace(path: Path) -> list[TraceLine]:
    """The calls of a file in their order."""
    return [_read_line(line) for line in path.read_bytes().splitlines() if line.strip()]


def _read_line(line: bytes) -> TraceLine:
    found = orjson.loads(line)
    return TraceLine(
        found["timestamp"] / 1000,
        max(1, found["input_length"]),
        max(1, found["output_length"]),
        tuple(found["hash_ids"]),
    )


def mean_tokens_per_s(lines: Sequence[TraceLine]) -> float:
    """The tokens of prompts that come in a second of a trace."""
    return sum(line.prompt_tokens for line in lines) / length_s(lines)


def length_s(lines: Sequence[TraceLine]) -> float:
    """From the first call to the last."""
    return max(1.0, lines[-1].at_s - lines[0].at_s)


def overlay(
    lines: Sequence[TraceLine], copies: float, seconds: float, jitter_s: float, seed: int
) -> list[PrefixCall]:
    """The calls of so many copies in `seconds`, from a moment of the trace that differs by copy.

    Of a fraction of a copy, that fraction of its conversations takes part. `jitter_s` spreads calls
    whose times are quantised.
    """
    chance = random.Random(seed)  # Not for secrets: the same seed, the same calls.
    shared = find_shared(lines)
    whole_s = length_s(lines) + jitter_s
    calls: list[PrefixCall] = []
    left, copy = copies, 0
    while left > 1e-9:
        kept = _keep(lines, shared, min(1.0, left), chance)
        start_s = chance.uniform(0, whole_s)
        for line in kept:
            at_s = (line.at_s + chance.uniform(0, jitter_s) - start_s) % whole_s
            if at_s < seconds:
                calls.append(_make(line, at_s, copy, shared))
        left, copy = left - 1, copy + 1
    calls.sort(key=lambda call: call.arrived_s)
    return calls


def find_shared(lines: Sequence[TraceLine]) -> frozenset[int]:
    """The blocks of system prompts."""
    counts = Counter(block for line in lines for block in line.blocks)
    return frozenset(block for block, count in counts.items() if count > SHARED_RATIO * len(lines))


def _keep(
    lines: Sequence[TraceLine], shared: frozenset[int], ratio: float, chance: random.Random
) -> Iterable[TraceLine]:
    """A part of the conversations; a conversation is known by its first block of its own."""
    if ratio >= 1:
        return lines
    mark = chance.getrandbits(32)

    def stays(line: TraceLine) -> bool:
        own = next((block for block in line.blocks if block not in shared), line.blocks[0])
        return random.Random(mark ^ own).random() < ratio

    return [line for line in lines if stays(line)]


def _make(line: TraceLine, at_s: float, copy: int, shared: frozenset[int]) -> PrefixCall:
    blocks = [block if block in shared else (copy << 32) | block for block in line.blocks]
    size = line.prompt_tokens * BYTES_PER_TOKEN
    text = b"".join([_text(block) for block in blocks])[:size]
    full = blocks[: line.prompt_tokens // BLOCK_TOKENS]
    return PrefixCall(
        at_s, line.prompt_tokens, line.output_tokens, tuple(full), prefix_keys([text])
    )


def _text(block: int) -> bytes:
    return block.to_bytes(8, "big") * (BLOCK_TOKENS * BYTES_PER_TOKEN // 8)
