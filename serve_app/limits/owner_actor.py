"""The owner as one named, detached Ray actor on the head node: the only module here that knows Ray.

A dead actor is started again by Ray, and reads its journal. The head node is where Ray's own state
is: without it there is no cluster, so the owner is no further point of failure, and the journal
stays where the owner is.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from serve_app.limits.journal import SqliteJournal
from serve_app.limits.limit import CountersUnreachable, Limit, Standing
from serve_app.limits.owner import Note, Owner, SliceAsk, SliceVerdict
from serve_app.limits.windows import SECOND_MS

logger = logging.getLogger("ray.serve")

NAMESPACE = "serve_app"
HEAD_RESOURCE = "node:__internal_head__"
"""Ray gives this resource to the head node."""


class LimitsOwner:
    """The actor: an owner with the clock of its node. Ray runs one call at a time."""

    def __init__(self, directory: str, place_ms: int) -> None:
        self._owner = Owner(SqliteJournal(Path(directory)), place_ms, _now())

    def take(self, router: str, asks: Sequence[SliceAsk]) -> SliceVerdict:
        """Slices for every ask, or none."""
        return self._owner.take(router, asks, _now())

    def change(self, router: str, note: Note) -> None:
        """Correct what a Router has spent."""
        self._owner.change(router, note, _now())

    def standings(self, limits: Sequence[Limit]) -> Sequence[Standing]:
        """The state of each counter."""
        return self._owner.standings(limits, _now())


class RayOwnerPort:
    """A Router's way to the actor, which is made by the first Router that looks for it."""

    def __init__(
        self, directory: str, place_ms: int, find: Callable[[str, int], Any] | None = None
    ) -> None:
        self._directory = directory
        self._place_ms = place_ms
        self._find_actor = find_owner if find is None else find
        self._finding: asyncio.Task[Any] | None = None
        # A message must not overtake another that still waits for the actor. The lock is fair, and
        # Ray keeps the order of the calls of one process to an actor without threads.
        self._sending = asyncio.Lock()

    async def take(self, router: str, asks: Sequence[SliceAsk]) -> SliceVerdict:
        """Slices for every ask, or none."""
        verdict: SliceVerdict = await self._ask("take", router, asks)
        return verdict

    async def change(self, router: str, note: Note) -> None:
        """Correct what the Router has spent."""
        await self._ask("change", router, note)

    async def standings(self, limits: Sequence[Limit]) -> Sequence[Standing]:
        """The state of each counter."""
        standings: Sequence[Standing] = await self._ask("standings", limits)
        return standings

    async def _ask(self, method: str, *arguments: object) -> Any:
        finding: asyncio.Task[Any] | None = None
        try:
            async with self._sending:
                finding = self._find()
                actor = await asyncio.shield(finding)
                answer = getattr(actor, method).remote(*arguments)
            return await answer
        except (RayError, ValueError, OSError) as error:
            if self._finding is finding:
                self._finding = None
            # Ray's message is a traceback with addresses: only the log may hold it.
            logger.debug("the owner of the limits does not answer", exc_info=error)
            raise CountersUnreachable(type(error).__name__) from None

    def _find(self) -> asyncio.Task[Any]:
        """The search for the actor, which all messages share until one of them fails."""
        if self._finding is None:
            self._finding = asyncio.create_task(
                asyncio.to_thread(self._find_actor, self._directory, self._place_ms)
            )
        return self._finding


def find_owner(directory: str, place_ms: int) -> Any:
    """The actor that owns the counters in a directory; it is started if there is none.

    Raises:
        ValueError: this process belongs to no Ray cluster.
    """
    if not ray.is_initialized():
        # Ray would start a cluster for this process, or join any cluster of this machine.
        raise ValueError("this process belongs to no Ray cluster")
    name = "limits-" + hashlib.sha256(directory.encode()).hexdigest()[:16]
    return (
        ray.remote(LimitsOwner)
        .options(
            name=name,
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            max_restarts=-1,
            num_cpus=0,
            resources={HEAD_RESOURCE: 0.001},
        )
        .remote(directory, place_ms)
    )


def _now() -> int:
    return int(time.time() * SECOND_MS)
