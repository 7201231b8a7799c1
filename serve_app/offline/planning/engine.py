"""The engine arguments of a tier that a plan depends on, with the pinned vLLM's defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from pydantic import JsonValue

from serve_app.config.tiers import TierConfig
from serve_app.offline.planning.cards import GIB, Card
from serve_app.offline.planning.planning_errors import PlanningFailed
from serve_app.offline.planning.quantization import CACHE_BYTES

GPU_MEMORY_UTILIZATION = 0.92
BLOCK_TOKENS = 16
CPU_BLOCK_TOKENS = 128
ELEMENT_BYTES = {
    **dict.fromkeys(("auto", "half", "float16", "bfloat16"), 2),
    **dict.fromkeys(("float", "float32"), 4),
}
CPU_CACHE_VARIABLE = "VLLM_CPU_KVCACHE_SPACE"

Kind = TypeVar("Kind", int, float, str, bool)


@dataclass(frozen=True)
class Parallel:
    """How one replica is spread over its workers, with one GPU each."""

    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    expert: bool = False

    @property
    def gpus(self) -> int:
        """GPUs of one replica."""
        return self.tensor * self.pipeline * self.data

    def __str__(self) -> str:
        parts = [f"TP {self.tensor}"]
        parts += [f"PP {self.pipeline}"] if self.pipeline > 1 else []
        parts += [f"DP {self.data}"] if self.data > 1 else []
        parts += ["EP"] if self.expert else []
        return " ".join(parts)


@dataclass(frozen=True)
class Engine:
    """The engine arguments that memory and speed depend on."""

    parallel: Parallel
    quantization: str | None
    element_bytes: int
    """Bytes of an activation, or of a weight that is not quantised."""
    cache_dtype: str
    cache_bytes: int
    """Bytes of one element of the KV cache."""
    max_model_len: int | None
    """None: the model's positions; -1: the longest context that fits."""
    scaled: bool
    """Whether the model's config is overridden, for example to scale its positions."""
    max_num_seqs: int
    max_num_batched_tokens: int
    gpu_memory_utilization: float
    eager: bool
    block_tokens: int
    kv_cache_memory_bytes: int | None
    num_gpu_blocks_override: int | None
    cpu_cache_bytes: float | None
    """Bytes that a tier on CPU reserves for keys and values; None if vLLM chooses."""
    image_tokens_max: int = 0
    """The tokens of the largest image; vLLM reserves its memory at the start. 0: no images."""

    @property
    def fixed_cache(self) -> bool:
        """Whether the config sets the size of the cache, or the cache takes the remaining
        memory."""
        return self.kv_cache_memory_bytes is not None or self.num_gpu_blocks_override is not None


def read_engine(tier: TierConfig, card: Card | None) -> Engine:
    """Read a tier's engine arguments; the defaults of the batch sizes depend on the card.

    Raises:
        PlanningFailed: a value is of the wrong kind, or cannot be planned with.
    """
    given = tier.engine
    cache_dtype = _read(given, "kv_cache_dtype", "auto")
    dtype = _read(given, "dtype", "auto")
    for key, value, known in (
        ("kv_cache_dtype", cache_dtype, CACHE_BYTES),
        ("dtype", dtype, ELEMENT_BYTES),
    ):
        if value not in known:
            names = ", ".join(known)
            raise PlanningFailed(f"engine.{key}: {value} cannot be planned; known are {names}")
    parallel = Parallel(
        _count(given, "tensor_parallel_size", 1),
        _count(given, "pipeline_parallel_size", 1),
        _count(given, "data_parallel_size", 1),
        _read(given, "enable_expert_parallel", False),
    )
    seqs, tokens = default_batch(card, parallel.gpus)
    element_bytes = ELEMENT_BYTES[dtype]
    return Engine(
        parallel=parallel,
        quantization=_read_or_none(given, "quantization", ""),
        element_bytes=element_bytes,
        cache_dtype=cache_dtype,
        cache_bytes=element_bytes if cache_dtype == "auto" else CACHE_BYTES[cache_dtype],
        max_model_len=_read_or_none(given, "max_model_len", 0),
        scaled="hf_overrides" in given,
        max_num_seqs=_count(given, "max_num_seqs", seqs),
        max_num_batched_tokens=_count(given, "max_num_batched_tokens", tokens),
        gpu_memory_utilization=_read(given, "gpu_memory_utilization", GPU_MEMORY_UTILIZATION),
        eager=_read(given, "enforce_eager", False),
        block_tokens=_count(given, "block_size", BLOCK_TOKENS if card else CPU_BLOCK_TOKENS),
        kv_cache_memory_bytes=_read_or_none(given, "kv_cache_memory_bytes", 0),
        num_gpu_blocks_override=_read_or_none(given, "num_gpu_blocks_override", 0),
        cpu_cache_bytes=_read_cpu_cache(tier) if card is None else None,
        image_tokens_max=_read_image_tokens(tier),
    )


def _read_image_tokens(tier: TierConfig) -> int:
    """The largest image of the model, also for a tier that takes none: vLLM does not know that."""
    limits = tier.engine.get("limit_mm_per_prompt")
    if isinstance(limits, dict) and limits.get("image") == 0:
        return 0
    grid = tier.patch_grid
    return grid.pixels_max // grid.side**2


def default_batch(card: Card | None, workers: int = 1) -> tuple[int, int]:
    """The defaults of `max_num_seqs` and `max_num_batched_tokens`.

    They follow `EngineArgs.get_batch_defaults` of the pinned vLLM for its API server.
    """
    if card is None:
        return 128 * workers, 2048 * workers
    if card.memory_gib >= 160:
        return 1024, 16384
    if card.memory_gib >= 70 and "A100" not in card.name.upper():
        return 1024, 8192
    return 256, 2048


def _read_cpu_cache(tier: TierConfig) -> float | None:
    text = tier.env.get(CPU_CACHE_VARIABLE)
    if text is None:
        return None
    try:
        return float(text) * GIB or None
    except ValueError:
        raise PlanningFailed(
            f"env.{CPU_CACHE_VARIABLE}: expected a number of GiB, not '{text}'"
        ) from None


def _count(given: dict[str, JsonValue], key: str, default: int) -> int:
    value = _read(given, key, default)
    if value < 1:
        raise PlanningFailed(f"engine.{key}: expected a whole number of at least 1, not {value}")
    return value


def _read_or_none(given: dict[str, JsonValue], key: str, like: Kind) -> Kind | None:
    return None if given.get(key) is None else _read(given, key, like)


def _read(given: dict[str, JsonValue], key: str, default: Kind) -> Kind:
    value = given.get(key)
    if value is None:
        return default
    kind = type(default)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return kind(value)
    if type(value) is not kind:
        raise PlanningFailed(f"engine.{key}: expected {kind.__name__}, not {value!r}")
    return value
