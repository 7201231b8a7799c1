"""What a plan takes for vLLM's defaults is what the pinned vLLM's schema says."""

from __future__ import annotations

import pytest
from pydantic import JsonValue

from serve_app.config.engine_arguments import read_engine_arguments
from serve_app.offline.planning.engine import GPU_MEMORY_UTILIZATION


@pytest.mark.parametrize(
    ("name", "default"),
    [
        ("gpu_memory_utilization", GPU_MEMORY_UTILIZATION),
        ("kv_cache_dtype", "auto"),
        ("dtype", "auto"),
        ("tensor_parallel_size", 1),
        ("pipeline_parallel_size", 1),
        ("data_parallel_size", 1),
        ("enable_expert_parallel", False),
        ("enforce_eager", False),
    ],
)
def test_the_plan_has_the_defaults_of_the_pinned_vllm(name: str, default: JsonValue) -> None:
    """An upgrade that changes a default fails here."""
    assert read_engine_arguments().arguments[name].default == default
