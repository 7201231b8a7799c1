"""An engine and its one worker in a single process, for the CPU."""

from __future__ import annotations

from typing import Any

from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine

EXECUTOR = "serve_app.replica.one_device.OneDeviceExecutor"
"""By its name, so that torch and vLLM's workers are imported in the engine's process alone."""


class OneProcessEngine(VLLMEngine):
    """vLLM's engine, whose only worker runs inside the engine's process.

    A tier chooses this engine by the variable `RAYLLM_VLLM_ENGINE_CLS`, Ray's own way to choose
    one. On a CPU, ray.serve.llm and vLLM always start the worker as a process of its own, so that
    vLLM can bind its threads to cores. Without such a binding (`VLLM_CPU_OMP_THREADS_BIND:
    nobind`) the second process only imports vLLM once more.
    """

    def _prepare_engine_config(self, callback_ctx: Any) -> tuple[Any, Any, Any]:
        arguments, frontend, config = super()._prepare_engine_config(callback_ctx)
        if config.parallel_config.world_size == 1:
            config.parallel_config.distributed_executor_backend = EXECUTOR
        return arguments, frontend, config
