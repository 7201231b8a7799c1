"""The engine's own numbers, read from vLLM's interface for loggers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from serve_app.autoscaling.demand import EngineSignals
from serve_app.leases.load import EngineLoad

logger = logging.getLogger("ray.serve")


class SchedulerStats(Protocol):
    """The scheduler statistics of vLLM that are read here; vLLM calls them unstable."""

    num_running_reqs: int
    num_waiting_reqs: int
    kv_cache_usage: float


class FinishedStats(Protocol):
    """The part of vLLM's statistics that is read here: the lengths of a call that has ended."""

    num_prompt_tokens: int
    num_generation_tokens: int


class IterationStats(Protocol):
    """The part of vLLM's statistics that is read here: the results of one step."""

    time_to_first_tokens_iter: Sequence[float]
    finished_requests: Sequence[FinishedStats]


class EngineStats:
    """A further stat logger of vLLM: keeps the newest numbers, and writes nothing.

    vLLM calls it after every step of the engine, so it only keeps a reference and counts. With more
    than one engine core (data parallel) the numbers of the cores are added up.
    """

    def __init__(self) -> None:
        self.steps = 0
        """The steps that have been seen."""
        self.probing = False
        """Whether an idle engine is being probed, which is no call: it must not scale a tier."""
        self.after_step: Callable[[], None] | None = None
        """Called after each step, when vLLM has noted its outputs in the states of its requests."""
        self._newest: dict[int, SchedulerStats] = {}
        self._first_tokens = 0
        self._first_token_waits_s = 0.0
        self._finished = 0
        self._prompt_tokens = 0
        self._output_tokens = 0

    def record(
        self,
        scheduler_stats: SchedulerStats | None,
        iteration_stats: IterationStats | None,
        mm_cache_stats: object = None,
        engine_idx: int = 0,
    ) -> None:
        """A step of the engine has ended."""
        self.steps += 1
        if self.after_step is not None:
            self.after_step()
        if self.probing:
            return
        if scheduler_stats is not None:
            self._newest[engine_idx] = scheduler_stats
        if iteration_stats is not None:
            waits_s = iteration_stats.time_to_first_tokens_iter
            self._first_tokens += len(waits_s)
            self._first_token_waits_s += sum(waits_s)
            for call in iteration_stats.finished_requests:
                self._finished += 1
                self._prompt_tokens += call.num_prompt_tokens
                self._output_tokens += call.num_generation_tokens

    def log(self) -> None:
        """Nothing is written."""

    def log_engine_initialized(self) -> None:
        """Nothing is written."""

    def record_sleep_state(self, is_awake: int, level: int) -> None:
        """Sleep is not used here."""

    def read(self) -> EngineLoad | None:
        """The newest numbers, None before the first step."""
        newest = list(self._newest.values())
        if not newest:
            return None
        return EngineLoad(
            running=sum(stats.num_running_reqs for stats in newest),
            queued=sum(stats.num_waiting_reqs for stats in newest),
            kv_used_ratio=sum(stats.kv_cache_usage for stats in newest) / len(newest),
        )

    def signals(self) -> EngineSignals | None:
        """The numbers for autoscaling, None before the first step."""
        load = self.read()
        if load is None:
            return None
        return EngineSignals(
            running=load.running,
            queued=load.queued,
            kv_used_ratio=load.kv_used_ratio or 0.0,
            first_tokens=self._first_tokens,
            first_token_waits_s=self._first_token_waits_s,
            finished=self._finished,
            prompt_tokens=self._prompt_tokens,
            output_tokens=self._output_tokens,
        )


def watch_engine(client: object) -> EngineStats | None:
    """Listen to a vLLM engine client, if it keeps statistics.

    vLLM takes further loggers only when it makes the client, which ray.serve.llm does, or as
    plugins of the installation (https://github.com/vllm-project/vllm/issues/17702). So this logger
    is appended to the client's list of loggers.
    """
    loggers = getattr(getattr(client, "logger_manager", None), "stat_loggers", None)
    if not isinstance(loggers, list):
        logger.warning("the engine keeps no statistics, so Routers do not learn its KV cache use")
        return None
    stats = EngineStats()
    loggers.append(stats)
    return stats
