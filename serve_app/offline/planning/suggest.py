"""Changes that make a tier fit: single changes, then pairs of changes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from serve_app.offline.planning.cards import Card, read_card_table
from serve_app.offline.planning.checks import check_division, tensor_sizes
from serve_app.offline.planning.engine import Engine
from serve_app.offline.planning.memory import measure
from serve_app.offline.planning.models import ModelFacts
from serve_app.offline.planning.quantization import SCHEMES, Scheme, pad

SMALLER = ("fp8", "awq-int4")
STEP_TOKENS = 1024
UTILIZATION_MAX = 0.95


def suggest(
    facts: ModelFacts, scheme: Scheme, engine: Engine, card: Card, gpus_per_node: int
) -> list[str]:
    """Changes after which the tier fits; without any, pairs of them, then other cards."""
    single = list(_change_one(facts, scheme, engine, card, gpus_per_node))
    if single:
        return single
    for name in _smaller(scheme):
        pairs = list(_change_tensor(facts, SCHEMES[name], engine, card, gpus_per_node))
        if pairs:
            return [f"quantization {name} with {pairs[0]}"]
    return [
        f"a card as {name}"
        for name, other in read_card_table().items()
        if other.memory_gib > card.memory_gib and _fits(facts, scheme, engine, other)
    ]


def _change_one(
    facts: ModelFacts, scheme: Scheme, engine: Engine, card: Card, gpus_per_node: int
) -> Iterator[str]:
    yield from _change_tensor(facts, scheme, engine, card, gpus_per_node)
    for name in _smaller(scheme):
        if _fits(facts, SCHEMES[name], engine, card):
            yield f"quantization {name}"
            break
    smaller = replace(engine, cache_bytes=1)
    if engine.cache_bytes > 1 and card.fp8_tflops and _fits(facts, scheme, smaller, card):
        yield "kv_cache_dtype: fp8"
    padded = pad(facts, scheme)
    tokens = measure(padded, scheme, engine, card).longest_tokens // STEP_TOKENS * STEP_TOKENS
    if tokens and _divides(padded, scheme, engine):
        yield f"max_model_len: {tokens}"
    fuller = replace(engine, gpu_memory_utilization=UTILIZATION_MAX)
    if engine.gpu_memory_utilization < UTILIZATION_MAX and _fits(facts, scheme, fuller, card):
        yield f"gpu_memory_utilization: {UTILIZATION_MAX}"


def _change_tensor(
    facts: ModelFacts, scheme: Scheme, engine: Engine, card: Card, gpus_per_node: int
) -> Iterator[str]:
    others = engine.parallel.pipeline * engine.parallel.data
    for size in tensor_sizes(facts, gpus_per_node // others):
        wider = replace(engine, parallel=replace(engine.parallel, tensor=size))
        if size > engine.parallel.tensor and _fits(facts, scheme, wider, card):
            yield f"tensor_parallel_size: {size}"
            return


def _smaller(scheme: Scheme) -> Iterator[str]:
    """Schemes to change to; not of checkpoints that come in one kind alone."""
    names = () if scheme.experts_only and not scheme.online else SMALLER
    return (name for name in names if SCHEMES[name].bits < scheme.bits)


def _fits(facts: ModelFacts, scheme: Scheme, engine: Engine, card: Card) -> bool:
    padded = pad(facts, scheme)
    return _divides(padded, scheme, engine) and measure(padded, scheme, engine, card).fits


def _divides(facts: ModelFacts, scheme: Scheme, engine: Engine) -> bool:
    return not any(finding.fatal for finding in check_division("", facts, scheme, engine))
