"""The owner of the counters where there is no Redis: it hands slices of the limits to Routers.

A slice is charged when it is handed out, so the Routers together can never spend more than the
limits, whatever becomes of them or of their messages. A Router spends a slice without asking
anybody, while the slot in which it was charged still takes uses. After that it gives the rest back.

The owner is pure but for its journal: every method gets the time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from serve_app.limits.ledger import Ledger
from serve_app.limits.limit import Limit, LimitAsk, LimitVerdict, Standing
from serve_app.limits.windows import DAY_MS, SECOND_MS, LimitWindow, closes_at, end_of, slot_of

SLICES = 16
"""No slice is larger than this part of its limit, unless one call needs it."""
ROOM_SLICES = 8
"""Nor larger than this part of the room, so that the last of it does not lie in one Router."""
SLICE_MS = 30 * SECOND_MS
"""How long a slice of a day or a month may be spent."""
PLACE_MS = SECOND_MS // 4
"""How long a Router keeps a place without a call."""
FOREVER = 1 << 53
KNOWN_MS = 2 * DAY_MS
"""How long a Router that is silent is remembered."""


@dataclass(frozen=True, slots=True)
class SliceAsk:
    """What a Router needs of a limit, and what it holds of it already: `aside`, of `slot`."""

    limit: Limit
    need: int
    slot: int
    aside: int


@dataclass(frozen=True, slots=True)
class Slice:
    """A part of a limit that a Router may spend for `valid_ms` from its question on."""

    slot: int
    amount: int
    valid_ms: int


@dataclass(frozen=True, slots=True)
class SliceVerdict:
    """The slices in the order of the asks, none of them if an ask was refused."""

    verdict: LimitVerdict
    slices: tuple[Slice, ...] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """A correction of what a Router has spent. `slot` None: the slot of the present."""

    key: str
    window: LimitWindow
    slot: int | None
    more: int


@dataclass(frozen=True, slots=True)
class Note:
    """A message of a Router: a number that grows, and its changes.

    `places` are the places that the Router holds after the changes, by key; None: as many as the
    owner has counted.
    """

    number: int
    changes: tuple[Change, ...]
    places: Mapping[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One slot of one counter, as the journal keeps it until `ends`."""

    key: str
    slot: int
    used: int
    ends: int


@dataclass(slots=True)
class Peer:
    """A Router as the owner knows it. `number` is the slot of its places, `last` the number of the
    last message with changes that has been applied."""

    number: int
    last: int
    seen: int


class Journal(Protocol):
    """Keeps counters and Routers on disk."""

    def load(self) -> tuple[Iterable[Entry], Mapping[str, Peer]]:
        """Everything that was written."""
        ...

    def write(self, entries: Iterable[Entry], peers: Mapping[str, Peer]) -> None:
        """Write these, all or nothing, so that they survive the end of the process."""
        ...

    def prune(self, now: int, peers: Iterable[str]) -> None:
        """Forget entries that have ended, and these Routers."""
        ...


class Owner:
    """The counters of a whole cluster."""

    def __init__(self, journal: Journal, place_ms: int, now: int) -> None:
        """A Router that is silent for `place_ms` loses its places."""
        self._journal = journal
        self._place_ms = place_ms
        self._ledger = Ledger()
        entries, peers = journal.load()
        for entry in entries:
            self._ledger.slots.setdefault(entry.key, {})[entry.slot] = entry.used
        # A Router could not tell a dead owner that it lives, so its time begins again.
        self._peers = {name: Peer(peer.number, peer.last, now) for name, peer in peers.items()}
        self._pruned = now

    def take(self, router: str, asks: Sequence[SliceAsk], now: int) -> SliceVerdict:
        """Slices for every ask, or none."""
        peer = self._hear(router, now)
        slots = [self._slot(ask.limit.window, peer, now) for ask in asks]
        missing = [
            ask.need - (ask.aside if ask.slot == slot else 0)
            for ask, slot in zip(asks, slots, strict=True)
        ]
        asked = [LimitAsk(ask.limit, amount) for ask, amount in zip(asks, missing, strict=True)]
        verdict = self._ledger.check(asked, now)
        if verdict.refused is not None:
            return SliceVerdict(verdict)
        amounts = [
            _slice_amount(ask, standing)
            for ask, standing in zip(asked, verdict.standings, strict=True)
        ]
        entries = [
            self._add(ask.limit.key, ask.limit.window, slot, amount)
            for ask, slot, amount in zip(asked, slots, amounts, strict=True)
        ]
        self._journal.write(entries, {router: peer})
        slices = tuple(
            Slice(slot, amount, _valid_ms(ask.limit.window, slot, now))
            for ask, slot, amount in zip(asks, slots, amounts, strict=True)
        )
        standings = tuple(self._ledger.standing(ask.limit, now) for ask in asked)
        return SliceVerdict(LimitVerdict(standings), slices)

    def change(self, router: str, note: Note, now: int) -> None:
        """Apply a message, if it has not been applied before."""
        peer = self._hear(router, now)
        if note.number <= peer.last:
            return
        peer.last = note.number
        entries = [
            self._add(one.key, one.window, slot, one.more)
            for one in note.changes
            if (slot := self._changed_slot(one, peer, now)) is not None
        ]
        if note.places is not None:
            entries += self._correct_places(peer, note.places)
        self._journal.write(entries, {router: peer})

    def _correct_places(self, peer: Peer, places: Mapping[str, int]) -> list[Entry]:
        """A place whose answer was lost is held by nobody; a Router that was not heard for long
        still holds places that the owner has freed."""
        counted = {key for key, slots in self._ledger.slots.items() if peer.number in slots}
        entries = []
        for key in counted | places.keys():
            slots = self._ledger.slots.setdefault(key, {})
            slots[peer.number] = places.get(key, 0)
            entries.append(Entry(key, peer.number, slots[peer.number], FOREVER))
        return entries

    def standings(self, limits: Sequence[Limit], now: int) -> tuple[Standing, ...]:
        """The state of each counter; what Routers hold and have not spent counts as used."""
        self._forget(now)
        return tuple(self._ledger.standing(limit, now) for limit in limits)

    def _changed_slot(self, change: Change, peer: Peer, now: int) -> int | None:
        """The slot of a change, None if it no longer counts."""
        if change.slot is None or change.window is LimitWindow.NOW:
            return self._slot(change.window, peer, now)
        return change.slot if end_of(change.window, change.slot) > now else None

    def _add(self, key: str, window: LimitWindow, slot: int, amount: int) -> Entry:
        used = self._ledger.add(key, window, slot, amount)
        return Entry(
            key, slot, used, FOREVER if window is LimitWindow.NOW else end_of(window, slot)
        )

    def _slot(self, window: LimitWindow, peer: Peer, now: int) -> int:
        """Places have a slot for each Router, so that they end with it."""
        return peer.number if window is LimitWindow.NOW else slot_of(window, now)

    def _hear(self, router: str, now: int) -> Peer:
        self._forget(now)
        peer = self._peers.get(router)
        if peer is None:
            number = 1 + max((one.number for one in self._peers.values()), default=0)
            peer = self._peers[router] = Peer(number, 0, now)
        peer.seen = now
        return peer

    def _forget(self, now: int) -> None:
        """Take the places of silent Routers, and prune the journal once in a while."""
        if now - self._pruned < self._place_ms // 4:
            return
        self._pruned = now
        dead = {peer.number for peer in self._peers.values() if self._is_dead(peer, now)}
        entries = [entry for key in list(self._ledger.slots) for entry in self._free(key, dead)]
        old = [name for name, peer in self._peers.items() if now - peer.seen > KNOWN_MS]
        for name in old:
            del self._peers[name]
        if entries:
            self._journal.write(entries, {})
        self._journal.prune(now, old)

    def _is_dead(self, peer: Peer, now: int) -> bool:
        return now - peer.seen > self._place_ms

    def _free(self, key: str, dead: set[int]) -> list[Entry]:
        slots = self._ledger.slots[key]
        # Numbers of Routers are small, and slots of time are not.
        freed = [slot for slot in slots if slot in dead]
        for slot in freed:
            del slots[slot]
        return [Entry(key, slot, 0, FOREVER) for slot in freed]


def _slice_amount(ask: LimitAsk, standing: Standing) -> int:
    """At least what is missing; more, where one slice can serve several calls."""
    if ask.amount <= 0 or ask.limit.window is LimitWindow.NOW:
        return max(0, ask.amount)
    room = ask.limit.amount - standing.used
    return max(ask.amount, min(ask.limit.amount // SLICES, room // ROOM_SLICES))


def _valid_ms(window: LimitWindow, slot: int, now: int) -> int:
    if window is LimitWindow.NOW:
        return PLACE_MS
    return min(SLICE_MS, closes_at(window, slot) - now)
