"""Which request to Ray stands for which waiting call."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from serve_app.leases.order import Claim, FairOrder
from serve_app.leases.waiting import Ask, Waiter, WaitingCalls

SESSIONS = st.sampled_from([None, "a", "b"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), SESSIONS),
        st.tuples(st.sampled_from(["leave", "grant", "refuse"]), st.integers(0, 9)),
    ),
    max_size=60,
)


@given(steps=STEPS, by_session=st.booleans())
def test_one_request_stands_for_every_waiting_call(
    steps: list[tuple[str, str | int | None]], by_session: bool
) -> None:
    """Whatever comes, goes, is granted and refused; a refusal ends just the call that it meets."""
    loop = asyncio.new_event_loop()
    try:
        machine = Machine(loop, by_session=by_session)
        for step, argument in steps:
            machine.take(step, argument)
            machine.check()
    finally:
        loop.close()


class Machine:
    """Waiting calls, driven as a pool drives them, beside what is expected of them."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, by_session: bool) -> None:
        self._loop = loop
        self._by_session = by_session
        self.waiting = WaitingCalls()
        self.calls: list[Waiter] = []
        self.asked: list[Ask] = []

    def take(self, step: str, argument: str | int | None) -> None:
        """One step; those that nothing can be done for are passed over."""
        if step == "add":
            assert not isinstance(argument, int)
            self._add(argument)
        elif step == "leave" and self.calls:
            assert isinstance(argument, int)
            self._end(self.calls[argument % len(self.calls)])
        elif step in ("grant", "refuse") and self.asked:
            assert isinstance(argument, int)
            self._answer(step, self.asked.pop(argument % len(self.asked)))

    def _add(self, session: str | None) -> None:
        waiter = Waiter(session, loop=self._loop)
        self.calls.append(waiter)
        ask = self.waiting.add(waiter, session if self._by_session else None)
        if ask is not None:
            self.asked.append(ask)

    def _answer(self, step: str, ask: Ask) -> None:
        stood_for = ask.waiter
        if step == "refuse":
            met = self.waiting.refuse(ask)
            assert met is stood_for
        else:
            met = self.waiting.grant(ask)
            assert met is None if not self.calls else met in (stood_for, self.calls[0])
        if met is not None:
            self._end(met)

    def _end(self, waiter: Waiter) -> None:
        self.calls.remove(waiter)
        self.waiting.leave(waiter)

    def check(self) -> None:
        """Calls wait in the order in which they came, and each has its request at Ray."""
        assert len(self.waiting) == len(self.calls)
        assert self.waiting.first is (self.calls[0] if self.calls else None)
        standing = [call.ask for call in self.calls]
        assert all(
            ask is not None and ask.waiter is call
            for ask, call in zip(standing, self.calls, strict=True)
        )
        assert {id(ask) for ask in standing} <= {id(ask) for ask in self.asked}
        assert self.waiting.orphans == len(self.asked) - len(standing)


def test_a_refusal_meets_the_tenant_that_fills_the_queue() -> None:
    """Ray refuses the newest request; the call that fails is the newest of the longest line."""
    loop = asyncio.new_event_loop()
    try:
        waiting = WaitingCalls()
        waiting.use_order(FairOrder(loop.time, batch_wait_max_s=60))
        flood = [Waiter(None, loop=loop, claim=Claim("flood", 1, 10)) for _ in range(5)]
        for waiter in flood:
            waiting.add(waiter, None)
        quiet = Waiter(None, loop=loop, claim=Claim("quiet", 1, 10))
        ask = waiting.add(quiet, None)
        assert ask is not None
        refused = waiting.refuse(ask)
        assert refused is flood[-1]
        waiting.leave(refused)
        assert (quiet.ask is not None, len(waiting)) == (True, 5)
        assert quiet.ask is not None
        assert waiting.grant(quiet.ask) is flood[0]
    finally:
        loop.close()
