"""The slices of limits that one Router holds and has not spent: pure, with an explicit clock."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from serve_app.limits.limit import Limit, Standing
from serve_app.limits.owner import Change
from serve_app.limits.windows import LimitWindow

NO_SLOT = -1


@dataclass(slots=True)
class Held:
    """A part of a limit: unspent in the purse, or reserved for a call. `until` bounds its use."""

    limit: Limit
    slot: int
    amount: int
    until: int


class Purse:
    """What the Router may spend without asking, and what it must tell the owner."""

    def __init__(self) -> None:
        self._slices: dict[str, Held] = {}
        self._known: dict[str, tuple[int, int]] = {}
        """The use of each limit as the owner last gave it, and when it will be 0."""
        self._changes: dict[tuple[str, LimitWindow, int | None], int] = {}

    def holds(self, limit: Limit, amount: int, now: int) -> bool:
        """Whether the purse has this much of a limit."""
        held = self._slices.get(limit.key)
        return held is not None and held.until > now and held.amount >= amount

    def withdraw(self, limit: Limit, amount: int, now: int) -> Held:
        """Up to this amount of a limit."""
        held = self._slices.get(limit.key)
        if held is None or held.until <= now:
            return Held(limit, NO_SLOT, 0, 0)
        taken = min(amount, held.amount)
        held.amount -= taken
        return Held(limit, held.slot, taken, held.until)

    def deposit(self, part: Held, now: int) -> None:
        """Put a part into the purse, or note that the owner gets it back if its time is over."""
        if part.slot == NO_SLOT:
            return
        held = self._slices.get(part.limit.key)
        if part.until <= now or (held is not None and held.slot > part.slot):
            self._give_back(part)
        elif held is not None and held.slot == part.slot:
            held.amount += part.amount
            held.until = max(held.until, part.until)
        else:
            if held is not None:
                self._give_back(held)
            self._slices[part.limit.key] = Held(part.limit, part.slot, part.amount, part.until)

    def owe(self, limit: Limit, amount: int, now: int) -> None:
        """Spend more than was reserved: from the purse, and the rest as a debt to the owner."""
        rest = amount - self.withdraw(limit, amount, now).amount
        if rest:
            self._note(limit.key, limit.window, None, rest)

    def hear(self, limit: Limit, standing: Standing, now: int) -> None:
        """Note the state of a limit as the owner knows it."""
        self._known[limit.key] = (standing.used, now + standing.reset_ms)

    def standing(self, limit: Limit, now: int) -> Standing:
        """The state of a limit as far as this Router knows it. The owner counts the purse as used;
        here it is free."""
        used, resets_at = self._known.get(limit.key, (0, now))
        held = self._slices.get(limit.key)
        unspent = 0 if held is None or held.until <= now else held.amount
        return Standing(max(0, used - unspent), max(0, resets_at - now))

    def expire(self, now: int) -> None:
        """Note that the owner gets back every slice whose time is over."""
        for key in [key for key, held in self._slices.items() if held.until <= now]:
            self._give_back(self._slices.pop(key))
        for key in self._known.keys() - self._slices.keys():
            del self._known[key]

    def empty(self) -> None:
        """Note that the owner gets back everything."""
        for held in self._slices.values():
            self._give_back(held)
        self._slices.clear()

    def take_changes(self) -> list[Change]:
        """What the owner must be told; the caller sends it until it has arrived."""
        changes = [Change(*place, more) for place, more in self._changes.items() if more]
        self._changes.clear()
        return changes

    def held(self) -> Iterator[Held]:
        """Every unspent part."""
        yield from self._slices.values()

    def _give_back(self, part: Held) -> None:
        if part.amount:
            self._note(part.limit.key, part.limit.window, part.slot, -part.amount)

    def _note(self, key: str, window: LimitWindow, slot: int | None, more: int) -> None:
        place = (key, window, slot)
        self._changes[place] = self._changes.get(place, 0) + more
