"""vLLM's engine as the watch of its replica sees it, and the end of its processes."""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from serve_app.replica.engine_stats import EngineStats
from serve_app.replica.liveness import EngineFault
from serve_app.replica.prefix_table import PrefixTable
from serve_app.replica.state import is_dead

logger = logging.getLogger("ray.serve")

WORKER_TITLE = "VLLM::Worker"
"""How vLLM titles the processes of its workers."""


class VLLMSigns:
    """The signs of life of the engine behind a client of vLLM."""

    def __init__(
        self,
        client: Any,
        stats: EngineStats | None,
        serves: Callable[[], bool],
        probe: Callable[[], Awaitable[None]],
    ) -> None:
        """`serves` says whether the engine's HTTP server runs; `probe` computes one token."""
        self._client, self._stats = client, stats
        self._serves, self._probe = serves, probe
        self._workers = find_workers()

    @property
    def can_be_pinged(self) -> bool:
        """Whether the client has what `ping` and `busy` need."""
        return hasattr(self._client, "is_paused") and hasattr(self._client, "output_processor")

    def fault(self) -> EngineFault | None:
        """Whether the engine or one of its workers has died, or the HTTP server has ended.

        vLLM says that its engine is dead only once it has waited seconds for the other workers.
        """
        if is_dead(self._client) or any(map(has_ended, self._workers)):
            return EngineFault.DEAD
        return None if self._serves() else EngineFault.CLOSED

    def steps(self) -> int:
        """The steps that vLLM's statistics have told of."""
        return 0 if self._stats is None else self._stats.steps

    def busy(self) -> bool:
        """Whether vLLM holds requests that have not ended."""
        return bool(self._client.output_processor.has_unfinished_requests())

    async def ping(self) -> bool:
        """Ask the engine's loop, which answers between two steps, whether it is paused."""
        return bool(await self._client.is_paused())

    async def probe(self) -> None:
        """Compute one token, which the numbers for autoscaling do not count."""
        if self._stats is not None:
            self._stats.probing = True
        try:
            await self._probe()
        finally:
            if self._stats is not None:
                self._stats.probing = False


def build_table(client: Any) -> PrefixTable | None:
    """A table of the engine's prefix cache, None if the engine has none or does not say its size.

    vLLM's engine processes tell the client how many blocks of its KV cache they have room for.
    """
    config = getattr(getattr(client, "vllm_config", None), "cache_config", None)
    blocks = getattr(config, "num_gpu_blocks", None) or 0
    size = getattr(config, "block_size", None) or 0
    if not (blocks and size and getattr(config, "enable_prefix_caching", False)):
        logger.warning("the engine has no prefix cache, so replicas are chosen by their load alone")
        return None
    return PrefixTable(blocks * size, block_tokens=size)


def find_workers() -> list[int]:
    """The processes of the engine's workers on this node; none where one process does all work.

    Workers that are actors of Ray are not among them; EngineCore waits for their end by itself.
    """
    found = []
    for child in multiprocessing.active_children():
        with suppress(psutil.Error):
            family = psutil.Process(child.pid).children(recursive=True)
            found += [each.pid for each in family if _is_worker(each)]
    return found


def _is_worker(process: psutil.Process) -> bool:
    return any(word.startswith(WORKER_TITLE) for word in process.cmdline())


def has_ended(pid: int) -> bool:
    """Whether a process has ended, or waits for its parent to notice; costs microseconds."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return True
    return stat.rpartition(b") ")[2][:1] in (b"Z", b"X")


def kill_engine() -> None:
    """Kill the engine's processes, stopped ones too: vLLM starts them as this process's children.

    vLLM then ends all answers with an error, as for any dead engine.
    """
    for child in multiprocessing.active_children():
        with suppress(psutil.Error):
            process = psutil.Process(child.pid)
            for each in (*process.children(recursive=True), process):
                _kill(each)


def _kill(process: psutil.Process) -> None:
    with suppress(psutil.Error):
        process.kill()


def exit_later(delay_s: float) -> None:
    """End this process and its engine after a while, whatever its event loop does then."""
    timer = threading.Timer(delay_s, _exit)
    timer.daemon = True
    timer.start()


def _exit() -> None:
    kill_engine()
    os._exit(1)
