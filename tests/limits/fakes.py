"""Counters in memory, which may be out of reach."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from typing import TypeVar

from serve_app.limits.ledger import Ledger
from serve_app.limits.limit import (
    Charge,
    CountersUnreachable,
    Limit,
    LimitAsk,
    LimitVerdict,
    Standing,
)
from serve_app.limits.owner import Entry, Journal, Note, Owner, Peer, SliceAsk, SliceVerdict
from serve_app.limits.windows import LimitWindow, slot_of

T = TypeVar("T")
NOW = 1_700_000_000_000


class FakeCounters:
    """One Router's counters, at a time that stands still."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.reachable = True
        self.hangs = False
        self.settled: list[tuple[str, Sequence[Charge]]] = []
        self._reserved: set[str] = set()

    def start(self) -> None: ...

    async def close(self) -> None: ...

    async def reserve(self, call_id: str, asks: Sequence[LimitAsk]) -> LimitVerdict:
        if self.hangs:
            await asyncio.Event().wait()
        if not self.reachable:
            raise CountersUnreachable("out of reach")
        verdict = self.ledger.reserve(asks, NOW)
        if verdict.refused is None:
            self._reserved.add(call_id)
        return verdict

    def settle(self, call_id: str, charges: Sequence[Charge]) -> None:
        self.settled.append((call_id, charges))
        for charge in charges:
            limit, known = charge.limit, call_id in self._reserved
            if known or limit.window is not LimitWindow.NOW:
                more = charge.used - (charge.reserved if known else 0)
                self.ledger.add(limit.key, limit.window, slot_of(limit.window, NOW), more)

    async def peek(self, limits: Sequence[Limit]) -> LimitVerdict:
        if not self.reachable:
            raise CountersUnreachable("out of reach")
        return LimitVerdict(tuple(self.ledger.standing(limit, NOW) for limit in limits))


class FakeClock:
    """A clock that a test moves. Routers read it as seconds since their start, owners as Unix time
    in milliseconds."""

    def __init__(self) -> None:
        self.ms = NOW

    def monotonic(self) -> float:
        return (self.ms - NOW) / 1000


class FakeJournal:
    """A disk that survives its owner."""

    def __init__(self) -> None:
        self.entries: dict[tuple[str, int], Entry] = {}
        self.peers: dict[str, Peer] = {}

    def load(self) -> tuple[Iterable[Entry], Mapping[str, Peer]]:
        return list(self.entries.values()), {name: replace(p) for name, p in self.peers.items()}

    def write(self, entries: Iterable[Entry], peers: Mapping[str, Peer]) -> None:
        self.entries |= {(one.key, one.slot): one for one in entries}
        self.peers |= {name: replace(peer) for name, peer in peers.items()}

    def prune(self, now: int, peers: Iterable[str]) -> None:
        self.entries = {place: one for place, one in self.entries.items() if one.ends > now}
        for name in peers:
            self.peers.pop(name, None)


class Fault(StrEnum):
    """What may become of a message to the owner and of its answer."""

    NONE = "none"
    MESSAGE_LOST = "message lost"
    ANSWER_LOST = "answer lost"
    ANSWER_LATE = "answer late"


class FakePort:
    """The way to an owner in this process: the next message has the next fault."""

    def __init__(self, journal: Journal, clock: FakeClock, place_ms: int = 10**9) -> None:
        self._journal = journal
        self._clock = clock
        self._place_ms = place_ms
        self.faults: list[Fault] = []
        self.messages = 0
        self.release = asyncio.Event()
        self.restart()

    def restart(self) -> None:
        """End the owner as by kill -9, and start another on its journal."""
        self.owner = Owner(self._journal, self._place_ms, self._clock.ms)

    async def take(self, router: str, asks: Sequence[SliceAsk]) -> SliceVerdict:
        return await self._pass(lambda: self.owner.take(router, asks, self._clock.ms), waits=True)

    async def change(self, router: str, note: Note) -> None:
        await self._pass(lambda: self.owner.change(router, note, self._clock.ms))

    async def standings(self, limits: Sequence[Limit]) -> Sequence[Standing]:
        return self.owner.standings(limits, self._clock.ms)

    async def _pass(self, ask: Callable[[], T], *, waits: bool = False) -> T:
        fault = self.faults.pop(0) if self.faults else Fault.NONE
        await asyncio.sleep(0)
        if fault is Fault.MESSAGE_LOST:
            raise CountersUnreachable("message lost")
        self.messages += 1
        answer = ask()
        if fault is Fault.ANSWER_LOST:
            raise CountersUnreachable("answer lost")
        if fault is Fault.ANSWER_LATE and waits:
            await self.release.wait()
        await asyncio.sleep(0)
        return answer
