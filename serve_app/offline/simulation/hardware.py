"""The tiers that are simulated: Qwen2.5 7B on one H100, 72B tensor-parallel over four.

Sizes are the models' own (their config.json): 7.6e9 and 72.7e9 parameters in two bytes; 28 layers
with 4, 80 layers with 8 heads of 128 keys and values. Bandwidth and arithmetic are NVIDIA's for the
H100 SXM: 3.35 TB/s, 989 TFLOPS dense in bfloat16. Assumed: 70 % of the bandwidth and half of the
arithmetic are reached, a step costs 2 ms (4 ms with all-reduce) on top, 90 % of 80 GB are the
engine's, 5 GB of each GPU are neither weights nor cache, and a replica starts in 60 s or 300 s.
"""

from __future__ import annotations

from serve_app.offline.simulation.cluster import SimTier
from serve_app.offline.simulation.engine import EngineTiming

BANDWIDTH = 3.35e12
"""Bytes a second of one GPU."""
ARITHMETIC = 989e12
"""Operations a second of one GPU."""
BANDWIDTH_REACHED, ARITHMETIC_REACHED = 0.7, 0.5
MEMORY_BYTES, RESERVED_BYTES = 0.9 * 80e9, 5e9
H200_BANDWIDTH, H200_MEMORY_BYTES = 4.8e12, 0.9 * 141e9
"""NVIDIA's for the H200 SXM, whose arithmetic is the H100's."""
CHUNK_TOKENS = 8192
REPLICAS_MAX = 12
PATIENCE_S = 60.0
SHARING_GPUS = 4


def build_timing(
    *,
    parameters: float,
    layers: int,
    kv_heads: int,
    gpus: int,
    overhead_s: float,
    sequences_max: int,
) -> EngineTiming:
    """The roofline of a model in two bytes a number, with heads of 128."""
    bandwidth = BANDWIDTH * gpus * BANDWIDTH_REACHED
    arithmetic = ARITHMETIC * gpus * ARITHMETIC_REACHED
    kv_bytes = 2 * 2 * 128 * layers * kv_heads
    weights = 2 * parameters
    return EngineTiming(
        weights_s=weights / bandwidth,
        token_s=2 * parameters / arithmetic,
        context_token_s=kv_bytes / bandwidth,
        overhead_s=overhead_s,
        chunk_tokens=CHUNK_TOKENS,
        kv_tokens=int((gpus * (MEMORY_BYTES - RESERVED_BYTES) - weights) / kv_bytes),
        sequences_max=sequences_max,
    )


def fast_tier(start_s: float = 60.0) -> SimTier:
    """The 7B as `configs/prod.yaml` has it, with a queue of 1,024."""
    timing = build_timing(
        parameters=7.6e9, layers=28, kv_heads=4, gpus=1, overhead_s=0.002, sequences_max=256
    )
    return SimTier("fast", timing, 1, start_s, REPLICAS_MAX, 256, 1024, PATIENCE_S, 2.0)


def strong_tier(start_s: float = 300.0) -> SimTier:
    """The 72B as `configs/prod.yaml` has it, with a queue of 512."""
    timing = build_timing(
        parameters=72.7e9, layers=80, kv_heads=8, gpus=4, overhead_s=0.004, sequences_max=128
    )
    return SimTier("strong", timing, 4, start_s, REPLICAS_MAX, 128, 512, PATIENCE_S, 5.0)


def sharing_timing() -> EngineTiming:
    """The 72B over four H200 with keys and values in FP8: a cache of two million tokens.

    A smaller cache would forget a conversation of Mooncake's trace before its next turn.
    """
    gpus, parameters, kv_bytes = SHARING_GPUS, 72.7e9, 2 * 128 * 80 * 8
    bandwidth = H200_BANDWIDTH * gpus * BANDWIDTH_REACHED
    memory = gpus * (H200_MEMORY_BYTES - RESERVED_BYTES) - 2 * parameters
    return EngineTiming(
        weights_s=2 * parameters / bandwidth,
        token_s=2 * parameters / (ARITHMETIC * gpus * ARITHMETIC_REACHED),
        context_token_s=kv_bytes / bandwidth,
        overhead_s=0.004,
        chunk_tokens=CHUNK_TOKENS,
        kv_tokens=int(memory / kv_bytes),
        sequences_max=128,
    )


def token_rates(timing: EngineTiming, context_tokens: float) -> tuple[float, float]:
    """Prompt and answer tokens per second, as a load test of each would find them.

    The rate of answers holds while all sequences of the engine are busy, each with a context of
    this many tokens, as far as the KV cache holds them.
    """
    sequences = min(timing.sequences_max, int(timing.kv_tokens / context_tokens))
    step_s = timing.step_s(sequences, sequences * context_tokens)
    return 1 / timing.token_s, sequences / step_s
