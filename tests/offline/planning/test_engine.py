"""Engine arguments are read as the pinned vLLM reads them."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest

from serve_app.offline.planning.cards import GIB, Card, read_card_table
from serve_app.offline.planning.engine import (
    BLOCK_TOKENS,
    CPU_BLOCK_TOKENS,
    default_batch,
    read_engine,
)
from serve_app.offline.planning.planning_errors import PlanningFailed
from tests.offline.planning.tiers import engine, tier


def test_defaults_are_the_pinned_vllms() -> None:
    """Utilisation, block size, parallel sizes and types."""
    from vllm.config import CacheConfig
    from vllm.engine.arg_utils import AsyncEngineArgs

    read, args = engine(), AsyncEngineArgs()
    assert read.gpu_memory_utilization == args.gpu_memory_utilization
    assert CacheConfig.DEFAULT_BLOCK_SIZE == BLOCK_TOKENS == read.block_tokens
    parallel = read.parallel
    assert (parallel.tensor, parallel.pipeline, parallel.data, parallel.expert) == (
        args.tensor_parallel_size,
        args.pipeline_parallel_size,
        args.data_parallel_size,
        args.enable_expert_parallel,
    )
    assert (read.cache_dtype, read.quantization, read.eager) == (
        args.kv_cache_dtype,
        args.quantization,
        args.enforce_eager,
    )


@pytest.mark.parametrize("name", list(read_card_table()))
def test_batch_sizes_are_the_pinned_vllms(name: str) -> None:
    """They depend on the memory and the name of the card."""
    from vllm.engine import arg_utils
    from vllm.platforms import current_platform
    from vllm.usage.usage_lib import UsageContext

    card = read_card_table()[name]
    kind = type(current_platform)
    with (
        mock.patch.object(kind, "get_device_total_memory", return_value=card.memory_bytes),
        mock.patch.object(kind, "get_device_name", return_value=f"NVIDIA {name}"),
        mock.patch.object(kind, "is_cpu", return_value=False),
    ):
        tokens, seqs = arg_utils.EngineArgs.get_batch_defaults(1)
    server = UsageContext.OPENAI_API_SERVER
    assert default_batch(card) == (seqs[server], tokens[server])


def test_batch_sizes_on_cpu_are_the_pinned_vllms() -> None:
    """They grow with the workers."""
    from vllm.engine.arg_utils import EngineArgs
    from vllm.usage.usage_lib import UsageContext

    server = UsageContext.OPENAI_API_SERVER
    for workers in (1, 2):
        tokens, seqs = EngineArgs.get_batch_defaults(workers)
        assert default_batch(None, workers) == (seqs[server], tokens[server])


def test_what_the_config_sets_wins() -> None:
    """Every key that is read."""
    read = engine(
        tensor_parallel_size=4,
        pipeline_parallel_size=2,
        data_parallel_size=3,
        enable_expert_parallel=True,
        quantization="fp8",
        kv_cache_dtype="fp8",
        dtype="float32",
        max_model_len=-1,
        max_num_seqs=7,
        max_num_batched_tokens=99,
        gpu_memory_utilization=1,
        enforce_eager=True,
        block_size=32,
        hf_overrides={},
    )
    assert (str(read.parallel), read.parallel.gpus) == ("TP 4 PP 2 DP 3 EP", 24)
    assert (read.quantization, read.cache_bytes, read.element_bytes) == ("fp8", 1, 4)
    assert (read.max_model_len, read.max_num_seqs, read.max_num_batched_tokens) == (-1, 7, 99)
    assert (read.gpu_memory_utilization, read.eager, read.block_tokens) == (1.0, True, 32)
    assert read.scaled


def test_a_tier_on_cpu() -> None:
    """Its cache has the size of the environment, in blocks of their own size."""
    fields: dict[str, Any] = {"accelerator": "cpu", "accelerator_type": None}
    read = read_engine(tier(env={"VLLM_CPU_KVCACHE_SPACE": "1.5"}, **fields), None)
    assert (read.cpu_cache_bytes, read.block_tokens) == (1.5 * GIB, CPU_BLOCK_TOKENS)
    assert read_engine(tier(**fields), None).cpu_cache_bytes is None
    with pytest.raises(PlanningFailed, match="a number of GiB, not 'much'"):
        read_engine(tier(env={"VLLM_CPU_KVCACHE_SPACE": "much"}, **fields), None)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"tensor_parallel_size": "2"}, r"engine\.tensor_parallel_size: expected int, not '2'"),
        ({"tensor_parallel_size": 0}, "of at least 1, not 0"),
        ({"max_model_len": 1.5}, "expected int"),
        ({"enforce_eager": 1}, "expected bool"),
        ({"kv_cache_dtype": "nvfp4"}, r"engine\.kv_cache_dtype: nvfp4 cannot be planned"),
        ({"dtype": "int4"}, r"engine\.dtype: int4 cannot be planned"),
    ],
)
def test_a_value_that_cannot_be_used(arguments: dict[str, Any], words: str) -> None:
    """The key and what it takes."""
    with pytest.raises(PlanningFailed, match=words):
        engine(**arguments)


def test_a_small_described_card_gets_small_batches() -> None:
    """As vLLM gives them to any GPU below 70 GiB."""
    assert default_batch(Card("mine", 24, 600, 100)) == (256, 2048)
