"""Whose turn it is: shares by weight, no debt for those who leave, and batch calls that age."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.leases.order import ArrivalOrder, Claim, FairOrder


class Call:
    """A call that waits; equal to no other call."""

    def __init__(self, tenant: str, tokens: int = 10, weight: float = 1, *, batch: bool = False):
        self.claim = Claim(tenant, weight, tokens, batch)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def make_order(clock: Clock | None = None, batch_wait_max_s: float = 100.0) -> FairOrder[Call]:
    return FairOrder(clock or Clock(), batch_wait_max_s)


def serve(order: FairOrder[Call]) -> Call:
    call = order.first
    assert call is not None
    order.serve(call)
    return call


def serve_tenants(order: FairOrder[Call], times: int) -> list[str]:
    return [serve(order).claim.tenant for _ in range(times)]


def test_a_flood_does_not_delay_another_tenant() -> None:
    """A tenant's first call comes next, however many calls of another tenant wait."""
    order = make_order()
    for _ in range(1000):
        order.add(Call("flood"))
    assert serve_tenants(order, 5) == ["flood"] * 5
    order.add(Call("quiet"))
    assert "quiet" in serve_tenants(order, 2)


def test_tokens_are_shared_and_not_calls() -> None:
    """A tenant with long calls gets fewer of them."""
    order = make_order()
    for _ in range(100):
        order.add(Call("long", tokens=90))
        order.add(Call("short", tokens=10))
    served = Counter(serve_tenants(order, 100))
    assert served["short"] == pytest.approx(9 * served["long"], rel=0.15)


@pytest.mark.parametrize("weight", [2, 5])
def test_weights_are_shares(weight: float) -> None:
    """A tenant of weight 2 gets twice the tokens."""
    order = make_order()
    for _ in range(200):
        order.add(Call("big", weight=weight))
        order.add(Call("small"))
    served = Counter(serve_tenants(order, 120))
    assert served["big"] == pytest.approx(weight * served["small"], rel=0.1)


def test_a_call_that_leaves_costs_its_tenant_nothing() -> None:
    """A client that hung up while it waited has had nothing."""
    order = make_order()
    gone = [Call("a", tokens=1000) for _ in range(50)]
    for call in gone:
        order.add(call)
    order.add(Call("b"))
    for call in gone:
        order.remove(call)
    order.add(Call("a"))
    order.add(Call("b"))
    assert sorted(serve_tenants(order, 2)) == ["a", "b"]


def test_a_tenant_saves_up_nothing_while_it_is_idle() -> None:
    """A tenant that comes late gets its share from now on, and not the share of the past."""
    order = make_order()
    for _ in range(100):
        order.add(Call("early"))
    serve_tenants(order, 50)
    for _ in range(50):
        order.add(Call("late"))
    assert Counter(serve_tenants(order, 20)) == {"early": 10, "late": 10}


def test_interactive_calls_come_before_batch_calls() -> None:
    """A report of the night waits for the people of the day."""
    order = make_order()
    order.add(Call("a", batch=True))
    order.add(Call("b"))
    order.add(Call("a"))
    assert [serve(order).claim.batch for _ in range(3)] == [False, False, True]


def test_a_batch_call_that_has_waited_long_enough_takes_part() -> None:
    """Batch calls are never starved: after their time they share with the interactive calls."""
    clock = Clock()
    order = make_order(clock, batch_wait_max_s=60)
    for _ in range(3):
        order.add(Call("night", batch=True))
    clock.now = 30.0
    for _ in range(30):
        order.add(Call("day"))
    assert serve_tenants(order, 5) == ["day"] * 5
    clock.now = 60.0
    served = serve_tenants(order, 6)
    assert served.count("night") == 3
    assert len(order) == 25 - 3


def test_a_correction_charges_what_a_call_has_really_cost() -> None:
    """A tenant that announces short answers and gets long ones waits for its debt."""
    order = make_order()
    claims = [Call("liar"), Call("honest")]
    for call in claims:
        order.add(call)
    serve_tenants(order, 2)
    order.correct(claims[0].claim, 110)
    for _ in range(30):
        order.add(Call("liar"))
        order.add(Call("honest"))
    assert serve_tenants(order, 9).count("liar") == 0


def test_the_victim_is_the_newest_call_of_the_longest_line() -> None:
    """A full queue costs the tenant that fills it."""
    order = make_order()
    quiet = Call("quiet")
    flood = [Call("flood") for _ in range(10)]
    for call in flood:
        order.add(call)
    order.add(quiet)
    assert order.victim(quiet) is flood[-1]
    night = Call("night", batch=True)
    order.add(night)
    assert order.victim(quiet) is night


def test_a_new_call_knows_how_many_come_before_it() -> None:
    """A quiet tenant's call is not behind the calls of a flood, and a batch call is behind all."""
    order = make_order()
    for _ in range(50):
        order.add(Call("flood", 100))
    order.add(Call("quiet", 100))
    assert order.ahead(Call("flood", 100).claim) >= 50
    assert order.ahead(Call("quiet", 100).claim) <= 2
    assert order.ahead(Call("new", 100).claim) == 0
    assert order.ahead(Call("new", 100, batch=True).claim) == 51


def test_a_change_of_the_order_keeps_the_calls() -> None:
    """A new config takes the waiting calls over in the order of their arrival."""
    clock = Clock()
    order = make_order(clock)
    calls = [Call("ab"[n % 2], batch=n % 3 == 0) for n in range(10)]
    for call in calls:
        clock.now += 1
        order.add(call)
    assert order.drain() == calls
    assert (len(order), order.first) == (0, None)
    plain: ArrivalOrder[Call] = ArrivalOrder()
    for call in calls:
        plain.add(call)
    assert plain.victim(calls[3]) is calls[3]
    assert plain.drain() == calls
    assert len(plain) == 0


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["add", "serve", "remove", "wait", "correct"]),
        st.sampled_from("abc"),
        st.integers(1, 500),
        st.booleans(),
    ),
    max_size=80,
)


@given(EVENTS)
def test_no_call_is_lost_or_served_twice(events: list[tuple[str, str, int, bool]]) -> None:
    """Whatever happens in whatever order, the order holds exactly the calls that wait."""
    clock = Clock()
    order = make_order(clock, batch_wait_max_s=3)
    waiting: list[Call] = []
    for what, tenant, tokens, batch in events:
        if what == "add":
            waiting.append(Call(tenant, tokens, weight=1 + len(tenant), batch=batch))
            order.add(waiting[-1])
        elif what == "serve" and waiting:
            waiting.remove(serve(order))
        elif what == "remove" and waiting:
            order.remove(waiting.pop(tokens % len(waiting)))
        elif what == "correct":
            order.correct(Claim(tenant, 1.0, 10), tokens)
        clock.now += 1
        assert len(order) == len(waiting)
        assert (order.first in waiting) if waiting else order.first is None
    while waiting:
        waiting.remove(serve(order))
    assert order.first is None


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 100)), min_size=60, max_size=200))
def test_no_tenant_is_ahead_by_more_than_one_call_of_each(calls: list[tuple[str, int]]) -> None:
    """While two tenants have calls that wait, their tokens differ by at most the longest calls.

    The bound of start-time fair queueing: |W_a / w_a - W_b / w_b| <= l_a / w_a + l_b / w_b.
    """
    order = make_order()
    for tenant, tokens in calls:
        order.add(Call(tenant, tokens))
    left = Counter(tenant for tenant, _ in calls)
    had: Counter[str] = Counter()
    while all(left[tenant] for tenant in "ab"):
        call = serve(order)
        had[call.claim.tenant] += call.claim.tokens
        left[call.claim.tenant] -= 1
        assert abs(had["a"] - had["b"]) <= 200


def test_the_head_is_of_one_tenant_and_one_class() -> None:
    """The first call first, and no more calls than asked for."""
    order = make_order()
    calls = [Call("a"), Call("b"), Call("a"), Call("a", batch=True), Call("a")]
    for call in calls:
        order.add(call)
    assert order.head(2) == [calls[0], calls[2]]
    assert order.head(8) == [calls[0], calls[2], calls[4]]
    for call in (calls[0], calls[2], calls[4], calls[1]):
        order.remove(call)
    assert order.head(8) == [calls[3]]
    order.remove(calls[3])
    assert (list(order.head(8)), order.first) == ([], None)
    arrivals = ArrivalOrder[Call]()
    for call in calls:
        arrivals.add(call)
    assert arrivals.head(3) == calls[:3]


def test_the_oldest_call_is_the_oldest_of_all_tenants() -> None:
    """Whoever's turn it is, and whatever its class."""
    clock = Clock()
    order = make_order(clock)
    assert order.oldest is None
    calls = [Call("a", batch=True), Call("b"), Call("a")]
    for clock.now, call in zip((1.0, 2.0, 3.0), calls, strict=True):
        order.add(call)
    assert order.oldest is calls[0]
    order.remove(calls[0])
    assert order.oldest is calls[1]
