"""Configs that cannot work, however much memory there is: the problem, the reason, the mend."""

from __future__ import annotations

from collections.abc import Iterator

from serve_app.model_files.finding import Finding
from serve_app.offline.planning.cards import GIB, Card, find_ray_cards, read_card_table
from serve_app.offline.planning.engine import Engine
from serve_app.offline.planning.memory import Memory, image_bytes, padded_vocabulary
from serve_app.offline.planning.models import ModelFacts
from serve_app.offline.planning.quantization import Scheme

DOUBT_BYTES = 1.0 * GIB
"""The error in memory to expect of a plan of a dense model: its errors against logs are smaller."""

MIXTURE_DOUBT_BYTES = 4.5 * GIB
"""What is missing in the one log of a mixture of experts in FP8 (vLLM issue 21348); in that of
gpt-oss (23278) a little less."""

FP8_CACHE = 1
"""Bytes of a cached element in FP8."""


def check_division(
    where: str, facts: ModelFacts, scheme: Scheme, engine: Engine
) -> Iterator[Finding]:
    """Check that the model can be divided over the GPUs as the engine's arguments demand."""
    parallel = engine.parallel
    tensor = parallel.tensor
    key = f"{where}.engine.tensor_parallel_size"
    sizes = ", ".join(map(str, tensor_sizes(facts)))
    if facts.linear is not None and facts.linear.key_heads % tensor:
        what = f"{facts.linear.key_heads} heads of linear attention cannot be divided by {tensor}"
        yield Finding(key, what, f"take one of {sizes}")
    if facts.heads % tensor:
        what = f"{facts.heads} attention heads cannot be divided by {tensor}"
        yield Finding(key, what, f"take one of {sizes}")
    elif max(facts.kv_heads, tensor) % min(facts.kv_heads, tensor):
        what = f"{facts.kv_heads} KV heads can neither be divided by {tensor} nor copied evenly"
        yield Finding(key, what, f"take one of {sizes}")
    elif tensor > facts.kv_heads:
        copies = tensor // facts.kv_heads
        what = (
            f"{facts.kv_heads} KV heads over {tensor} GPUs: each is stored {copies} times, and so "
            "are its keys and values"
        )
        mend = f"take {facts.kv_heads} and more replicas, if the weights leave enough room"
        yield Finding(key, what, mend, fatal=False)
    if padded_vocabulary(facts) % tensor:
        what = f"{padded_vocabulary(facts)} rows of the vocabulary cannot be divided by {tensor}"
        yield Finding(key, what, f"take one of {sizes}")
    yield from _check_columns(key, facts, scheme, engine)
    if parallel.pipeline > facts.layers:
        what = f"{parallel.pipeline} stages for {facts.layers} layers"
        yield Finding(f"{where}.engine.pipeline_parallel_size", what, "take fewer stages")
    elif facts.layers % parallel.pipeline:
        what = f"{facts.layers} layers do not divide evenly: the fullest stage decides"
        mend = "take a divisor of the number of layers, if one is suitable"
        yield Finding(f"{where}.engine.pipeline_parallel_size", what, mend, fatal=False)
    if parallel.data > 1 and not facts.experts:
        what = f"{facts.name} has no experts to share, and vLLM refuses the key for such models"
        mend = "leave the key out, and take more replicas"
        yield Finding(f"{where}.engine.data_parallel_size", what, mend)
    if parallel.expert and not facts.experts:
        what = f"{facts.name} has no experts; vLLM ignores the key"
        yield Finding(f"{where}.engine.enable_expert_parallel", what, "leave it out", fatal=False)


def _check_columns(
    key: str, facts: ModelFacts, scheme: Scheme, engine: Engine
) -> Iterator[Finding]:
    """Check that each GPU gets whole columns of an MLP, and whole groups that share a scale."""
    parallel = engine.parallel
    if facts.experts and parallel.expert:
        return
    shards = parallel.tensor * (parallel.data if facts.experts else 1)
    width = facts.expert_intermediate if facts.experts else facts.intermediate
    share, rest = divmod(width, shards)
    if rest or share % (scheme.group or 1):
        groups = f"a multiple of {scheme.name}'s groups of {scheme.group}"
        what = (
            f"the MLPs' {width} columns over {shards} GPUs are {width / shards:g} each, "
            f"not {groups if scheme.group else 'whole'}"
        )
        experts = " or enable_expert_parallel: true" if facts.experts else ""
        other = ", or another quantisation" if scheme.group else ""
        yield Finding(key, what, f"take fewer GPUs{experts}{other}")


def tensor_sizes(facts: ModelFacts, most: int = 64) -> list[int]:
    """The sizes by which heads and vocabulary can be divided, as vLLM's layers demand."""
    return [
        size
        for size in range(1, most + 1)
        if facts.heads % size == 0
        and (facts.linear is None or facts.linear.key_heads % size == 0)
        and padded_vocabulary(facts) % size == 0
        and max(facts.kv_heads, size) % min(facts.kv_heads, size) == 0
    ]


def check_length(where: str, facts: ModelFacts, engine: Engine) -> Iterator[Finding]:
    """Check that the model has as many positions as the engine's context."""
    if engine.max_model_len is not None and engine.max_model_len > facts.positions:
        what = (
            f"{engine.max_model_len} tokens, but {facts.name} has {facts.positions} positions: "
            "vLLM refuses more unless they are scaled"
        )
        mend = (
            f"take {facts.positions} or fewer; or scale the positions with YaRN in "
            "hf_overrides, as the model card says, which plan does not read"
        )
        yield Finding(f"{where}.engine.max_model_len", what, mend, fatal=not engine.scaled)


def check_name(where: str, accelerator_type: str | None, *, given: bool) -> Iterator[Finding]:
    """Check that Ray finds nodes by this name, and that the name determines the card."""
    key = f"{where}.accelerator_type"
    card = read_card_table().get(accelerator_type or "")
    if card is not None and not card.takes_ray:
        what = f"ray.serve.llm does not take {accelerator_type}: a replica would not be placed"
        mend = f"leave the key out, place by node_labels, and give the plan --card {card.name}"
        yield Finding(key, what, mend)
    elif card is not None and card.ray != card.name:
        what = f"Ray names this card {card.ray}: no node has the name {card.name} by default"
        mend = f"accelerator_type: {card.ray}, and --card {card.name} for the plan"
        yield Finding(key, what, mend, fatal=False)
    elif accelerator_type and card is None and not given:
        yield from _check_alike(key, accelerator_type)


def _check_alike(key: str, accelerator_type: str) -> Iterator[Finding]:
    """Warn about several cards with one name in Ray, if none has that name in the table."""
    names = [card.name for card in find_ray_cards(accelerator_type)]
    if len(names) > 1:
        what = f"Ray gives {' and '.join(names)} this name; {names[0]}, the smallest, is assumed"
        mend = " or ".join(f"--card {name}" for name in names)
        yield Finding(key, what, mend, fatal=False)


def check_card(where: str, scheme: Scheme, engine: Engine, card: Card) -> Iterator[Finding]:
    """Check that the card computes in the types that it is given."""
    if engine.quantization == "fp8_per_channel" and not card.fp8_tflops:
        what = f"{card.name} does not compute in FP8, and vLLM refuses fp8_per_channel there"
        yield Finding(f"{where}.engine.quantization", what, "take fp8, awq or gptq")
    elif scheme.compute == "fp8" and not card.fp8_tflops:
        what = f"{card.name} does not compute in FP8: the weights are small, but not faster"
        mend = "take int8, awq or gptq on this card, or accept it"
        yield Finding(f"{where}.engine.quantization", what, mend, fatal=False)
    if scheme.compute == "int8" and not card.int8_tops:
        what = f"the INT8 rate of {card.name} is not known: the plan uses the 16-bit rate"
        yield Finding(f"{where}.engine.quantization", what, "take fp8 on this card", fatal=False)
    if engine.cache_bytes == FP8_CACHE and not card.fp8_tflops:
        what = f"{card.name} has no FP8: not every attention backend of vLLM supports an FP8 cache"
        mend = "leave kv_cache_dtype out, or test it before you rely on it"
        yield Finding(f"{where}.engine.kv_cache_dtype", what, mend, fatal=False)


def check_scheme(where: str, facts: ModelFacts, scheme: Scheme) -> Iterator[Finding]:
    """Check how the weights are stored, and that the scheme packs any of them."""
    key = f"{where}.engine.quantization"
    if scheme.assumed:
        what = f"the plan does not know how the weights are stored: it assumes {scheme.name}"
        yield Finding(
            key, what, "run the plan on a machine that has the model's config.json", fatal=False
        )
    if scheme.experts_only and not facts.experts:
        what = f"{scheme.name} packs only experts, and {facts.name} has none: all stays in 16 bit"
        yield Finding(key, what, "take fp8, or leave the scheme out", fatal=False)


def check_margin(
    where: str, facts: ModelFacts, scheme: Scheme, engine: Engine, memory: Memory
) -> Iterator[Finding]:
    """Check that the tier fits by more than the plan may be wrong.

    The memory for images may be wrong by its whole size, because no log confirms it.
    """
    spare = memory.kv_bytes - memory.call_bytes
    packed = scheme.compute == "fp8" or scheme.experts_only
    doubt = MIXTURE_DOUBT_BYTES if facts.experts and packed else DOUBT_BYTES
    doubt += image_bytes(facts, engine)
    if memory.fits and spare < doubt:
        what = (
            f"fits by {spare / GIB:.1f} GiB a GPU, and such a plan may be wrong by "
            f"{doubt / GIB:.3g} (docs/planning.md)"
        )
        mend = "leave more room, or test it before you rely on it"
        yield Finding(f"{where}.engine", what, mend, fatal=False)


def check_node(where: str, strategy: str, engine: Engine, gpus_per_node: int) -> Iterator[Finding]:
    """Check that a replica fits on a node, if it must."""
    gpus = engine.parallel.gpus
    if gpus > gpus_per_node and strategy == "STRICT_PACK":
        what = f"a replica needs {gpus} GPUs on one node, which has {gpus_per_node}"
        mend = "fewer GPUs per replica; or strategy PACK, with TP within a node and PP across nodes"
        yield Finding(f"{where}.placement.strategy", what, mend)
    if engine.parallel.tensor > gpus_per_node:
        what = f"TP {engine.parallel.tensor} would span nodes: every layer would wait for a network"
        mend = f"use TP {gpus_per_node} or less, and pipeline_parallel_size for the rest"
        yield Finding(f"{where}.engine.tensor_parallel_size", what, mend)
