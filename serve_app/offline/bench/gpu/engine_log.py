"""The facts in vLLM's log, as the pinned version words them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

_NUMBER = r"([\d.]+)"
_COUNT = r"([\d,]+)"
# vllm/v1/worker/gpu_model_runner.py and gpu/model_runner.py, v1/core/kv_cache_utils.py,
# v1/engine/core.py, v1/worker/gpu_worker.py, compilation/monitor.py.
_LOADED = re.compile(rf"Model loading took {_NUMBER} GiB memory and {_NUMBER} seconds")
_CACHE = re.compile(
    rf"GPU KV cache size: {_COUNT} tokens, "
    rf"Maximum concurrency for {_COUNT} tokens per request: {_NUMBER}x"
)
_GRAPHS = re.compile(rf"Graph capturing finished in {_NUMBER} secs, took (-?[\d.]+) GiB")
_COMPILED = re.compile(rf"torch\.compile took {_NUMBER} s in total")
_READY = re.compile(rf"init engine \(profile, create kv cache, warmup model\) took {_NUMBER} s")


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """The facts of one engine; a fact is None if the log does not have it, for example on a CPU."""

    weights_gib: float | None
    load_s: float | None
    kv_tokens: float | None
    call_tokens: float | None
    """`max_model_len`: what `concurrency` counts calls of."""
    concurrency: float | None
    graphs_s: float | None
    graphs_gib: float | None
    compile_s: float | None
    init_s: float | None
    """Profile, cache, graphs and warm-up, compilation included."""


def parse_engine_log(text: str) -> EngineFacts:
    """The facts of the engine that wrote the log."""
    find = _build_finder(text)
    return EngineFacts(
        weights_gib=find(_LOADED, 1),
        load_s=find(_LOADED, 2),
        kv_tokens=find(_CACHE, 1),
        call_tokens=find(_CACHE, 2),
        concurrency=find(_CACHE, 3),
        graphs_s=find(_GRAPHS, 1),
        graphs_gib=find(_GRAPHS, 2),
        compile_s=find(_COMPILED, 1),
        init_s=find(_READY, 1),
    )


def _build_finder(text: str) -> Callable[[re.Pattern[str], int], float | None]:
    def find(pattern: re.Pattern[str], group: int) -> float | None:
        match = pattern.search(text)
        return float(match[group].replace(",", "")) if match else None

    return find
