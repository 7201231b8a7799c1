"""The trace of one call by the rules of W3C Trace Context, and the times that become its spans.

A call only notes times. Its spans are made once it has ended, so a call that is not sampled costs
hardly anything, and a call that fails can be sampled afterwards.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from random import getrandbits

EXCHANGES_MAX = 16
"""The exchanges of one call that are noted; a call has three at most, and retries no more."""

_PARENT = re.compile(
    rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-[ -~]*)?"
)
_SAMPLED = 1


@dataclass(frozen=True, slots=True)
class TraceParent:
    """What a client says about its own trace."""

    trace_id: str
    span_id: str
    sampled: bool


def parse_traceparent(value: bytes) -> TraceParent | None:
    """The client's trace; None for a value that the W3C's rules do not allow.

    A version that is not known yet may have more fields, which are ignored.
    """
    found = _PARENT.fullmatch(value)
    if found is None:
        return None
    version, trace_id, span_id, flags, rest = found.groups()
    if version == b"00" and rest is not None:
        return None
    return TraceParent(trace_id.decode(), span_id.decode(), bool(int(flags, 16) & _SAMPLED))


@dataclass(slots=True)
class ExchangeTrace:
    """One exchange with a tier. Times are Unix time in seconds, None where it did not come so far.

    `leased_at` is the time at which the last place was got, `head_at` that of the answer's head.
    """

    tier: str
    span_id: str
    asked_at: float
    leased_at: float | None = None
    head_at: float | None = None
    ended_at: float | None = None


@dataclass(slots=True)
class Trace:
    """The trace of one call on its way through a Router."""

    trace_id: str
    span_id: str
    parent_id: str | None
    sampled: bool
    received_at: float | None = None
    decided_at: float | None = None
    exchanges: list[ExchangeTrace] = field(default_factory=list)

    def note_received(self) -> None:
        """The request has been read and understood."""
        self.received_at = time.time()

    def note_decided(self) -> None:
        """The call has its tier, and its place within the limits."""
        self.decided_at = time.time()

    def begin(self, tier: str) -> ExchangeTrace:
        """An exchange with a tier begins."""
        exchange = ExchangeTrace(tier, make_id(64), time.time())
        if len(self.exchanges) < EXCHANGES_MAX:
            self.exchanges.append(exchange)
        return exchange

    def render_for(self, exchange: ExchangeTrace) -> bytes:
        """The `traceparent` for the engine, whose spans then belong to the exchange."""
        return f"00-{self.trace_id}-{exchange.span_id}-{int(self.sampled):02x}".encode()


def make_id(bits: int) -> str:
    """A random id, which is not 0."""
    return f"{getrandbits(bits) or 1:0{bits // 4}x}"
