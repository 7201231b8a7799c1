"""One limit of one subject, what a call asks of it, and the answer of the counters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from serve_app.limits.windows import LimitWindow


class Measure(StrEnum):
    """What a limit counts. Money is in nanos (`core/money.py`)."""

    REQUESTS = "requests"
    TOKENS = "tokens"
    CALLS = "calls"
    MONEY = "money"


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit of one subject. `key` names its counter, `words` name it for a client.

    The key holds neither the amount nor the number of the rule, so a change of the config keeps
    what has been counted. `tier` is the tier whose calls count, None for all.
    """

    key: str
    measure: Measure
    window: LimitWindow
    amount: int
    words: str
    tier: str | None = None


@dataclass(frozen=True, slots=True)
class LimitAsk:
    """What a call asks of one limit."""

    limit: Limit
    amount: int


@dataclass(frozen=True, slots=True)
class Charge:
    """What an ended call has used of one limit, and what it had asked of it before."""

    limit: Limit
    reserved: int
    used: int


@dataclass(frozen=True, slots=True)
class Standing:
    """The state of one counter. `reset_ms` is the time until nothing of the present use counts."""

    used: int
    reset_ms: int


@dataclass(frozen=True, slots=True)
class LimitVerdict:
    """The answer to a reservation: the standing of every limit after it, in the order of the asks.

    `refused` is the index of the ask for which there was no room, None if everything was reserved.
    `retry_ms` is the time until there is room, if nobody else takes it.
    """

    standings: tuple[Standing, ...]
    refused: int | None = None
    retry_ms: int = 0


class CountersUnreachable(Exception):
    """The counters did not answer in time, or cannot be reached."""


class Counters(Protocol):
    """The counters that all Routers share."""

    def start(self) -> None:
        """Begin the work in the background, in the running event loop. May be called twice."""
        ...

    async def close(self) -> None:
        """Settle the rest, and free every resource."""
        ...

    async def reserve(self, call_id: str, asks: Sequence[LimitAsk]) -> LimitVerdict:
        """Reserve all or nothing.

        Raises:
            CountersUnreachable: nobody knows whether there is room. The caller still settles.
        """
        ...

    def settle(self, call_id: str, charges: Sequence[Charge]) -> None:
        """Charge what a call has used instead of what was reserved; neither blocks nor raises.

        The counters know whether the reservation was made. If not, the whole use is charged.
        """
        ...

    async def peek(self, limits: Sequence[Limit]) -> LimitVerdict:
        """The standings of limits, without a reservation.

        Raises:
            CountersUnreachable: the counters cannot be read.
        """
        ...
