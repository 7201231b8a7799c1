"""Tokens of a stream that travel as one event while the replica's event loop lags.

Each event of a stream costs the replica, the Router, HAProxy and the client the same CPU time,
whether it carries one token or four. So when the loop needs long to deliver the tokens of one step
of the engine, the next tokens of each stream wait for each other, up to a bound. The first text of
an answer and its end never wait. On a loop that keeps up, each token is an event of its own.

vLLM makes the event of the tokens that have waited, as it does with its own `stream_interval`:
texts, log-probabilities, tool calls and usage are therefore those of its own code.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

LAG_S_MIN = 0.002
"""The loop lags when it needs this long, on average, to deliver the tokens of one step: about
fifteen streams. A quarter of it ends the lag, because joined tokens take less time."""

TURN_WEIGHT = 0.1
"""The weight of the newest delivery in the mean: one slow turn of an idle loop is no lag."""

FORGET_S = 1.0
"""After so long without a token the mean begins anew."""


class Loop(Protocol):
    """The part of an event loop that is used here."""

    def call_soon(self, callback: Callable[..., object], /, *args: Any) -> object:
        """Call back after what is ready now."""
        ...

    def call_later(self, delay_s: float, callback: Callable[..., object], /, *args: Any) -> object:
        """Call back after a time."""
        ...


class Outputs(Protocol):
    """The queue between vLLM's output processor and the task of a request."""

    def put(self, output: Any, /) -> None:
        """Hand an output over."""
        ...


class StreamState(Protocol):
    """The part of vLLM's `RequestState` that is used here."""

    make_request_output: Callable[..., Any]
    queue: Outputs | None


class StreamJoiner:
    """Decides for all streams of one engine client whether tokens wait, and for how long."""

    def __init__(
        self, bound_s: float, loop: Loop, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """No token waits longer than `bound_s`."""
        self.bound_s = bound_s
        self.lagging = False
        """Whether the loop lags."""
        self.now = clock()
        """The time at which the newest step of the engine was read."""
        self._loop, self._clock = loop, clock
        self._turn_s = 0.0
        self._held: deque[tuple[float, JoinedStream]] = deque()

    def begin_step(self) -> None:
        """Note that tokens of a step are about to be handed to their streams."""
        now = self._clock()
        if now - self.now > FORGET_S:
            self._turn_s, self.lagging = 0.0, False
        self.now = now

    def end_step(self) -> None:
        """Note that the tokens of a step have been handed to their streams."""
        # Runs after the tasks that the tokens have woken up, which write them.
        self._loop.call_soon(self._end_turn, self.now)

    def _end_turn(self, begun: float) -> None:
        self._turn_s += TURN_WEIGHT * (self._clock() - begun - self._turn_s)
        self.lagging = self._turn_s >= (LAG_S_MIN / 4 if self.lagging else LAG_S_MIN)

    def hold(self, stream: JoinedStream) -> None:
        """Release the stream when the bound has passed, if no token has released it by then."""
        if not self._held:
            self._loop.call_later(self.bound_s, self._release)
        self._held.append((self.now, stream))

    def _release(self) -> None:
        due = self._clock() - self.bound_s
        while self._held and self._held[0][0] <= due:
            held_at, stream = self._held.popleft()
            stream.release(held_at)
        if self._held:
            self._loop.call_later(self._held[0][0] - due, self._release)


class JoinedStream:
    """One streamed sequence, whose tokens may wait for each other."""

    __slots__ = (
        "_begun",
        "_held",
        "_held_at",
        "_joiner",
        "_make",
        "_may_wait",
        "_sent_at",
        "_state",
    )

    def __init__(
        self, state: StreamState, joiner: StreamJoiner, may_wait: Callable[[], bool]
    ) -> None:
        """`may_wait` says whether anything but the client needs the tokens at once."""
        self._state, self._joiner, self._may_wait = state, joiner, may_wait
        self._make = state.make_request_output
        self._begun = False
        self._sent_at = 0.0
        self._held: list[int] = []
        self._held_at: float | None = None

    def make(
        self,
        new_token_ids: list[int],
        pooling_output: Any,
        finish_reason: Any,
        *rest: Any,
        **named: Any,
    ) -> Any:
        """The output of these tokens and of those that have waited; None if these wait, too."""
        if finish_reason is None and self._waits():
            if self._held_at is None:
                self._held_at = self._joiner.now
                self._joiner.hold(self)
            self._held += new_token_ids
            return None
        return self._send(new_token_ids, pooling_output, finish_reason, *rest, **named)

    def release(self, held_at: float) -> None:
        """Send the tokens that have waited since then, if they still do."""
        if self._held_at == held_at and self._state.queue is not None:
            output = self._send([], None, None, None)
            if output is not None:
                self._state.queue.put(output)

    def _waits(self) -> bool:
        joiner = self._joiner
        return (
            joiner.lagging
            and self._begun
            and joiner.now - self._sent_at < joiner.bound_s
            and self._may_wait()
        )

    def _send(self, new_token_ids: list[int], *rest: Any, **named: Any) -> Any:
        if self._held:
            new_token_ids = self._held + new_token_ids
            self._held = []
        self._held_at = None
        output = self._make(new_token_ids, *rest, **named)
        self._sent_at = self._joiner.now
        # An output without text is no first token yet: a character may need several.
        self._begun = self._begun or _has_text(output)
        return output


def _has_text(output: Any) -> bool:
    return output is not None and any(each.text for each in output.outputs)
