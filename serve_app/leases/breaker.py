"""Circuit breakers: of a replica, which one failure opens, and of a tier, which a share opens.

closed       calls go there
open         calls go elsewhere, if there is an elsewhere
half-open    one call goes there, and its result closes or opens the breaker again

    trip, at any time        open, for twice the last time if it follows soon
    the time of open passes  half-open
    begin, in half-open      half-open, and other calls go elsewhere while that call is a probe
    close, at any time       closed
    no call for long enough  closed

An open breaker is a preference and never rejects a call. Otherwise a client whose requests make
engines fail would take a model away from the clients that name it.
"""

from __future__ import annotations

from collections import deque

from serve_app.core.load import BreakerState

OPEN_S = 1.0
"""How long a breaker stays open; doubles each time that a failure follows."""
OPEN_S_MAX = 8.0

WINDOW_S = 10.0
"""How long an answer of an engine counts for its tier."""
ANSWERS_MIN = 20
"""The answers in the window without which a tier's breaker stays closed: a few calls that fail
everywhere may themselves be the cause."""
ANSWERS_MAX = 512
FAILED_RATIO = 0.5
"""The share of failures that opens a tier's breaker."""


class Breaker:
    """One circuit breaker. Times are seconds of one clock."""

    __slots__ = ("_length_s", "_probed_until", "_until")

    def __init__(self) -> None:
        self._length_s = 0.0
        self._until = self._probed_until = float("-inf")

    def trip(self, now: float) -> None:
        """A failure; the calls that are already there fail together, so theirs count once."""
        if self.state(now) is BreakerState.OPEN:
            return
        if self.state(now) is BreakerState.CLOSED:
            self._length_s = OPEN_S / 2
        self._length_s = min(2 * self._length_s, OPEN_S_MAX)
        self._until, self._probed_until = now + self._length_s, float("-inf")

    def begin(self, now: float) -> None:
        """A call goes there; a half-open breaker makes it the probe."""
        if self.state(now) is BreakerState.HALF_OPEN and now >= self._probed_until:
            # If the call's client leaves, the result never comes, and another call is the probe.
            self._probed_until = now + self._length_s

    def close(self) -> None:
        """A success."""
        self._length_s = 0.0

    def state(self, now: float) -> BreakerState:
        """The state at this time."""
        if not self._length_s:
            return BreakerState.CLOSED
        if now < self._until:
            return BreakerState.OPEN
        known_until = max(self._until, self._probed_until) + self._length_s + OPEN_S_MAX
        return BreakerState.HALF_OPEN if now < known_until else BreakerState.CLOSED

    def avoided(self, now: float) -> bool:
        """Whether calls go elsewhere."""
        state = self.state(now)
        probing = now < self._probed_until
        return state is BreakerState.OPEN or (state is BreakerState.HALF_OPEN and probing)


class TierBreaker:
    """The breaker of a tier, which opens if its engines fail at too many calls."""

    def __init__(self) -> None:
        self.breaker = Breaker()
        self._answers: deque[tuple[float, bool]] = deque(maxlen=ANSWERS_MAX)

    def note(self, now: float, *, failed: bool) -> None:
        """An engine has answered, or has failed to."""
        if self.breaker.state(now) is not BreakerState.CLOSED:
            self._note_probe(now, failed=failed)
            return
        self._answers.append((now, failed))
        while self._answers[0][0] < now - WINDOW_S:
            self._answers.popleft()
        if failed and self._too_many():
            self._answers.clear()
            self.breaker.trip(now)

    def _note_probe(self, now: float, *, failed: bool) -> None:
        if failed:
            self.breaker.trip(now)
        else:
            self.breaker.close()

    def _too_many(self) -> bool:
        failures = sum(failed for _, failed in self._answers)
        return len(self._answers) >= ANSWERS_MIN and failures >= FAILED_RATIO * len(self._answers)
