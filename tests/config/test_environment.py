"""The environment of every Ray process, as the pinned packages read it."""

from __future__ import annotations

import pytest
from vllm import envs

from serve_app.config.environment import ray_environment


@pytest.mark.parametrize("name", ["VLLM_USE_FLASHINFER_SAMPLER", "VLLM_USE_DEEP_GEMM"])
def test_nothing_compiles_cuda_at_a_start(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The pinned vLLM turns on by itself what needs nvcc, and reads our values as off."""
    monkeypatch.delenv(name, raising=False)
    assert envs.environment_variables[name]() is True
    monkeypatch.setenv(name, ray_environment()[name])
    assert envs.environment_variables[name]() is False
