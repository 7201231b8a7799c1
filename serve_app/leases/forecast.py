"""How long a call that arrives now would wait for its first token, from measured times.

A call goes through two queues: for a place on a replica, and with the place for its first token.
Both are forecast in the same way, by the calls ahead and the measured time per call:

- A full tier frees a place once in (mean time that a call holds a place) / (places in use).
- An engine gives a first token once in (mean time from the place to the first token) / (mean number
  of calls that were ahead, and the call itself). The more calls an engine begins at a time, the
  shorter is the time per call.

The n-th call of a queue waits for n of these times, with a deviation of about the root of n.

A forecast needs evidence of a queue, because the time per call that was measured at a low load is
too long for a burst. So a tier counts as full only once calls have waited for `GROWTH_S` in which
no more places came into use, and an engine has a queue only if a first token has been due for
`QUEUED_RATIO` of the deadline. Without calls ahead there is no forecast: a slow call, which a start
may cause, never keeps later calls out for good.
"""

from __future__ import annotations

import math
from itertools import islice

GROWTH_S = 0.1
QUEUED_RATIO = 0.1
OVERLONG_RATIO = 0.02
"""The part of the pending calls, the oldest ones, that says nothing about other calls, because long
prompts take long."""
SAMPLES_MIN = 8
"""The calls that must have been measured before a forecast."""
MEMORY = 32
"""About how many of the newest calls a mean is made of."""
DEVIATIONS = 4.0
"""How many deviations a forecast allows for. In `serve-app bench overload` fewer let more calls
begin late, and more reject calls at the usual load."""


class TimePerCall:
    """The mean time of a queue for each call that was in it; the newest calls weigh most."""

    __slots__ = ("_calls", "_samples", "_seconds")

    def __init__(self) -> None:
        self._samples = 0
        self._seconds = 0.0
        self._calls = 0.0

    def note(self, seconds: float, calls: float) -> None:
        """A call has waited so long, with so many calls before it and itself."""
        self._samples += 1
        kept = 1 - 1 / min(self._samples, MEMORY)
        self._seconds = kept * self._seconds + seconds
        self._calls = kept * self._calls + calls

    @property
    def known(self) -> bool:
        """Whether enough calls have been measured."""
        return self._samples >= SAMPLES_MIN

    @property
    def mean_s(self) -> float:
        """Seconds of the queue for each of its calls; 0 before it is known."""
        return self._seconds / self._calls if self.known else 0.0

    def longest_s(self, calls: int) -> float:
        """The time that nearly all calls wait less than, in a queue of so many calls."""
        return _longest(calls) * self.mean_s


def _longest(calls: int) -> float:
    return calls + DEVIATIONS * math.sqrt(calls)


class Fullness:
    """Whether a tier has no more places than are in use."""

    __slots__ = ("_places", "_since")

    def __init__(self) -> None:
        self._places = 0
        self._since = float("inf")

    def note(self, waiting: int, in_use: int, now: float) -> None:
        """So many calls wait, and so many places are in use."""
        if not waiting or in_use > self._places:
            self._places, self._since = in_use, now

    def full(self, now: float) -> bool:
        """Whether calls have waited for long enough without one more place."""
        return now - self._since >= GROWTH_S


class FirstTokenQueue:
    """The calls that have a place and no first token yet. Times are seconds of one clock."""

    def __init__(self) -> None:
        self._pending: dict[object, tuple[float, int]] = {}
        self._per_call = TimePerCall()

    @property
    def pending(self) -> int:
        """The calls that wait for their first token."""
        return len(self._pending)

    def begin(self, call: object, now: float) -> None:
        """A call has got its place."""
        self._pending[call] = (now, len(self._pending) + 1)

    def end(self, call: object, now: float) -> None:
        """The first token has come; no effect on a call that is not pending."""
        begun = self._pending.pop(call, None)
        if begun is not None:
            since, calls = begun
            self._per_call.note(now - since, calls)

    def forget(self, call: object) -> None:
        """The call has ended without a first token, or cannot report it."""
        self._pending.pop(call, None)

    def mean_s(self) -> float:
        """The mean time to the first token of a call that gets its place now; 0 without a queue."""
        if not self._pending:
            return 0.0
        return (len(self._pending) + 1) * self._per_call.mean_s

    def longest_s(self, now: float, deadline_s: float) -> float:
        """The time to the first token that nearly all calls stay below; 0 without a queue."""
        skipped = max(1, int(OVERLONG_RATIO * len(self._pending)))
        oldest = next(islice(self._pending.values(), skipped, None), None)
        if oldest is None:
            return 0.0
        since, calls = oldest
        if now - since < QUEUED_RATIO * deadline_s:
            return 0.0
        return max(self._per_call.mean_s, (now - since) / calls) * _longest(len(self._pending) + 1)
