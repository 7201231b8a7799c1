"""When label calls may run: which tiers are idle, and the pauses between label calls."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping

from serve_app.leases.tier import Tier

QUIET_S = 1.0
"""The time without a call after which a label call may begin."""

ENGINE_NEWS_S = 2.0
"""How long an engine's report may still count a label call that has ended."""

BACK_OFF_S_MAX = 60.0
"""The longest pause. Pauses grow to it while a tier fails, or while it has calls of other Routers
each time: these calls show only once a label call is running."""


class IdleTiers:
    """Finds the tiers that have no calls except label calls of this Router."""

    def __init__(self, tiers: Mapping[str, Tier]) -> None:
        self._tiers = tiers
        self._ended: deque[tuple[float, str]] = deque(maxlen=64)

    def note_ended(self, tiers: Iterable[str]) -> None:
        """A label call on these tiers has ended; the engines' reports may still count it."""
        now = asyncio.get_running_loop().time()
        self._ended.extend((now, tier) for tier in tiers)

    def forget_ended(self) -> None:
        """Attribute calls in the engines' reports to other Routers from now on."""
        self._ended.clear()

    def is_idle(self, tier: str, ours: int, ours_max: int) -> bool:
        """Whether the tier has no calls except this Router's `ours` label calls.

        `ours_max` is the largest number of label calls that an engine's report can count.
        """
        load = self._tiers[tier].load()
        now = asyncio.get_running_loop().time()
        ended = sum(name == tier and at > now - ENGINE_NEWS_S for at, name in self._ended)
        reported = (load.running or 0) + (load.queued or 0)
        return (
            not load.down
            and load.ongoing + load.waiting <= ours
            and reported <= min(ours + ended, ours_max)
        )

    def has_room(self, tier: str) -> bool:
        """Whether a call more would keep no call waiting, as far as this Router knows."""
        load = self._tiers[tier].load()
        return not (load.down or load.waiting or load.queued)


class Pauses:
    """The time before which no label call begins."""

    def __init__(self, quiet_s: float) -> None:
        self._quiet_s = quiet_s
        self._not_before = self._troubled_until = float("-inf")
        self._back_off_s = quiet_s

    @property
    def over(self) -> bool:
        """Whether no pause is left."""
        return asyncio.get_running_loop().time() >= self._not_before

    @property
    def backing_off(self) -> bool:
        """Whether the pause after a tier's failure is not over."""
        return asyncio.get_running_loop().time() < self._troubled_until

    def begin_quiet(self) -> None:
        """Pause after a client's call."""
        self._pause(self._quiet_s)

    def back_off(self, *, failed: bool = False) -> None:
        """Pause after trouble, twice as long each time; `failed`: a tier did not answer."""
        self._pause(self._back_off_s)
        if failed:
            self._troubled_until = self._not_before
        self._back_off_s = min(2 * self._back_off_s, BACK_OFF_S_MAX)

    def reset(self) -> None:
        """The trouble is over: the next pause is short again."""
        self._back_off_s = self._quiet_s

    def _pause(self, seconds: float) -> None:
        now = asyncio.get_running_loop().time()
        self._not_before = max(self._not_before, now + seconds)
