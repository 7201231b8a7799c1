"""What vLLM says of itself: lines as vLLM 0.29 formats them."""

from __future__ import annotations

from pathlib import Path

import vllm

from serve_app.offline.bench.gpu.engine_log import EngineFacts, parse_engine_log

# vLLM's formats with the values of a 7B model filled in; the prefix is that of its own logger.
PREFIX = "(EngineCore pid=4711) INFO 11-29 18:40:02 "
GPU_LOG = f"""
{PREFIX}[gpu_model_runner.py:5472] Model loading took 14.25 GiB memory and 3.512345 seconds
{PREFIX}[monitor.py:53] torch.compile took 38.91 s in total
{PREFIX}[kv_cache_utils.py:2032] GPU KV cache size: 149,792 tokens, Maximum concurrency for 8,192 \
tokens per request: 18.29x
{PREFIX}[gpu_model_runner.py:7001] Graph capturing finished in 11 secs, took 0.41 GiB
{PREFIX}[core.py:361] init engine (profile, create kv cache, warmup model) took 61.20 s \
(compilation: 38.91 s)
"""
FORMATS = {
    "v1/worker/gpu_model_runner.py": (
        '"Model loading took %s GiB memory and %.6f seconds"',
        '"Graph capturing finished in %.0f secs, took %.2f GiB"',
    ),
    "v1/worker/gpu/model_runner.py": (
        '"Model loading took %s GiB memory and %.6f seconds"',
        '"Graph capturing finished in %.0f secs, took %.2f GiB"',
    ),
    "v1/core/kv_cache_utils.py": (
        '"GPU KV cache size: %s tokens, "',
        '"Maximum concurrency for %s tokens per request: %.2fx"',
    ),
    "v1/engine/core.py": ("init engine (profile, create kv cache, warmup model) took ",),
    "compilation/monitor.py": ('"torch.compile took %.2f s in total"',),
}


def test_a_log_of_a_gpu() -> None:
    """Weights, cache, graphs and times are all found."""
    assert parse_engine_log(GPU_LOG) == EngineFacts(
        weights_gib=14.25,
        load_s=3.512345,
        kv_tokens=149792,
        call_tokens=8192,
        concurrency=18.29,
        graphs_s=11,
        graphs_gib=0.41,
        compile_s=38.91,
        init_s=61.2,
    )


def test_a_log_of_a_cpu() -> None:
    """The CPU engine says nothing of weights and graphs; nothing is made up."""
    line = (
        "(EngineCore pid=1) INFO 11-29 18:40:02 [kv_cache_utils.py:2032] GPU KV cache size: "
        "131,072 tokens, Maximum concurrency for 8,192 tokens per request: 16.00x\n"
    )
    facts = parse_engine_log(line)
    assert (facts.kv_tokens, facts.concurrency) == (131072, 16)
    assert (facts.weights_gib, facts.graphs_s, facts.init_s) == (None, None, None)


def test_the_pinned_vllm_still_says_it_so() -> None:
    """Its sources have the formats that the patterns were written for."""
    root = Path(vllm.__file__).parent
    for name, formats in FORMATS.items():
        source = (root / name).read_text(encoding="utf-8")
        assert [text for text in formats if text not in source] == [], name
