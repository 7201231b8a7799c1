"""The counters of limits in memory: pure, over integers, with an explicit clock.

The Redis script does the same arithmetic; tests compare the two.
"""

from __future__ import annotations

from collections.abc import Sequence

from serve_app.limits.limit import Limit, LimitAsk, LimitVerdict, Standing
from serve_app.limits.windows import LimitWindow, end_of, slot_of

RETRY_PLACE_MS = 1000
"""When to try again for a place: nobody knows when a call will end."""


class Ledger:
    """The uses of every counter by slot."""

    def __init__(self) -> None:
        self.slots: dict[str, dict[int, int]] = {}

    def standing(self, limit: Limit, now: int) -> Standing:
        """The state of a limit's counter."""
        slots = self._counting(limit, now)
        newest = max((slot for slot, used in slots.items() if used > 0), default=None)
        resets = newest is not None and limit.window is not LimitWindow.NOW
        reset_ms = end_of(limit.window, newest) - now if resets and newest is not None else 0
        return Standing(sum(slots.values()), reset_ms)

    def reserve(self, asks: Sequence[LimitAsk], now: int) -> LimitVerdict:
        """Add every ask to its counter, or none if one of them finds no room."""
        verdict = self.check(asks, now)
        if verdict.refused is not None:
            return verdict
        for ask in asks:
            self.add(ask.limit.key, ask.limit.window, slot_of(ask.limit.window, now), ask.amount)
        return LimitVerdict(tuple(self.standing(ask.limit, now) for ask in asks))

    def check(self, asks: Sequence[LimitAsk], now: int) -> LimitVerdict:
        """Whether there is room for every ask; nothing changes."""
        standings = tuple(self.standing(ask.limit, now) for ask in asks)
        for index, (ask, standing) in enumerate(zip(asks, standings, strict=True)):
            if ask.amount > 0 and standing.used + ask.amount > ask.limit.amount:
                return LimitVerdict(standings, index, self._retry_ms(ask, now))
        return LimitVerdict(standings)

    def add(self, key: str, window: LimitWindow, slot: int, amount: int) -> int:
        """Add to one slot, or take away, but never below 0; returns what the slot holds then."""
        slots = self.slots.setdefault(key, {})
        slots[slot] = max(0, slots.get(slot, 0) + amount)
        return slots[slot]

    def _counting(self, limit: Limit, now: int) -> dict[int, int]:
        """The slots that still count; the others are forgotten."""
        slots = self.slots.get(limit.key)
        if slots is None:
            return {}
        if limit.window is not LimitWindow.NOW:
            for slot in [slot for slot in slots if end_of(limit.window, slot) <= now]:
                del slots[slot]
        return slots

    def _retry_ms(self, ask: LimitAsk, now: int) -> int:
        return retry_ms(ask, self._counting(ask.limit, now), now)


def retry_ms(ask: LimitAsk, slots: dict[int, int], now: int) -> int:
    """The time until there is room for an ask, if nothing else is counted meanwhile.

    An ask above the limit itself never finds room; the time is that until the limit is whole.
    """
    limit = ask.limit
    if limit.window is LimitWindow.NOW:
        return RETRY_PLACE_MS
    used, ends = sum(slots.values()), now
    for slot in sorted(slots):
        if used + ask.amount <= limit.amount:
            break
        used -= slots[slot]
        ends = end_of(limit.window, slot)
    return max(1, ends - now)
