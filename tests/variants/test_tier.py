"""A tier with variants over scripted tiers: who answers, what falls back, what is noted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from serve_app.core.errors import (
    DeadlineExceeded,
    GatewayError,
    TierOverloaded,
    TierUnavailable,
    UpstreamFailed,
)
from serve_app.core.load import TierLoad
from serve_app.leases.client import UpstreamRequest
from serve_app.variants.tier import VariantTier, merge_loads
from serve_app.variants.trial import Tally
from tests.fakes import FakeAnswer, FakeTier
from tests.variants.samples import make_deadlines, make_request, make_trial


class Pair:
    """An incumbent and a variant that gets every call, unless told otherwise."""

    def __init__(self, **config: object) -> None:
        self.incumbent, self.variant = FakeTier(), FakeTier()
        self.trial = make_trial(**{"shares": {"next": 1.0}, **config})
        self.tier = VariantTier(self.incumbent, {"next": self.variant}, self.trial)

    async def ask(self, request: UpstreamRequest | None = None) -> bytes:
        request = request or make_request()
        now = asyncio.get_running_loop().time()
        async with self.tier.exchange(request, make_deadlines(now)) as answer:
            return b"".join([chunk async for chunk in read_all(answer)])


async def read_all(answer: object):  # type: ignore[no-untyped-def]
    while chunk := await answer.read():  # type: ignore[attr-defined]
        yield chunk


async def test_a_variant_answers_its_calls() -> None:
    """The request says who answered, and the incumbent is not asked."""
    pair, request = Pair(), make_request()
    pair.variant.answer = FakeAnswer([b"new"])
    assert await pair.ask(request) == b"new"
    assert request.variant == "next"
    assert pair.incumbent.requests == []
    assert pair.trial.tallies == {"next": Tally(1)}


@pytest.mark.parametrize(
    ("error", "bad"),
    [
        (TierUnavailable(retry_after_s=1), {"faults": 1}),
        (UpstreamFailed(), {"faults": 1}),
        (TierOverloaded(retry_after_s=1), {}),
    ],
)
async def test_a_call_that_a_variant_does_not_begin_is_not_lost(
    error: GatewayError, bad: dict[str, int]
) -> None:
    """The incumbent answers; a full variant is no fault of its engine."""
    pair, request = Pair(), make_request()
    pair.variant.answer, pair.incumbent.answer = error, FakeAnswer([b"old"])
    assert await pair.ask(request) == b"old"
    assert request.variant is None
    assert pair.trial.tallies == {"next": Tally(1, bad)}


async def test_a_failing_incumbent_does_not_fall_back_to_a_variant() -> None:
    """The pipeline knows which other tier may answer; the error counts against the incumbent."""
    pair = Pair(shares={"next": 0.0})
    pair.incumbent.answer = UpstreamFailed()
    with pytest.raises(UpstreamFailed):
        await pair.ask()
    assert pair.variant.requests == []
    assert pair.trial.tallies == {"": Tally(1, {"faults": 1})}


@pytest.mark.parametrize("error", [UpstreamFailed(), DeadlineExceeded("gap", 1)])
async def test_a_stream_that_breaks_off_is_a_fault(error: GatewayError) -> None:
    """Bytes have gone, so the client gets the error, and nobody is asked again."""
    pair = Pair()
    pair.variant.answer = FakeAnswer([b"half"], error=error)
    with pytest.raises(type(error)):
        await pair.ask()
    assert pair.incumbent.requests == []
    assert pair.trial.tallies == {"next": Tally(1, {"faults": 1})}


async def test_a_refusal_is_noted_and_passed_on() -> None:
    """The client gets the engine's 4xx; a variant that refuses more than the incumbent is worse."""
    pair = Pair()
    pair.variant.answer = FakeAnswer([b"no"], status=400)
    assert await pair.ask() == b"no"
    assert pair.trial.tallies == {"next": Tally(1, {"refused": 1})}


async def test_a_client_that_leaves_is_nobodys_fault() -> None:
    """The exchange at the variant is closed, and the call counts as one that ended well."""
    pair = Pair()
    pair.variant.answer = FakeAnswer([b"one"], hang=True)
    task = asyncio.create_task(pair.ask())
    while not pair.variant.open_exchanges:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert pair.variant.open_exchanges == 0
    assert pair.trial.tallies == {"next": Tally(1)}


@pytest.mark.parametrize(
    ("sticky", "same"),
    [
        ("session", lambda n: make_request(n, session="s", caller=str(n))),
        ("caller", lambda n: make_request(n, session=str(n), caller="c")),
    ],
)
async def test_calls_stick(sticky: str, same: Callable[[int], UpstreamRequest]) -> None:
    """All calls of a session, or of a caller, have the same engine."""
    pair = Pair(shares={"next": 0.5}, sticky=sticky)
    requests = [same(number) for number in range(20)]
    for request in requests:
        pair.incumbent.answer, pair.variant.answer = FakeAnswer([b"a"]), FakeAnswer([b"b"])
        await pair.ask(request)
    assert len({request.variant for request in requests}) == 1


async def test_calls_without_a_session_do_not_stick() -> None:
    """Each is drawn for itself."""
    pair = Pair(shares={"next": 0.5})
    requests = [make_request(number) for number in range(60)]
    for request in requests:
        await pair.ask(request)
    assert {request.variant for request in requests} == {None, "next"}


async def test_a_call_ends_in_the_trial_that_drew_it() -> None:
    """A new trial begins in the middle of the call, and knows nothing of it."""
    pair, new = Pair(), make_trial(trial="second")
    old, now = pair.trial, asyncio.get_running_loop().time()
    async with pair.tier.exchange(make_request(), make_deadlines(now)):
        pair.tier.trial = new
    assert old.tallies == {"next": Tally(1)}
    assert new.tallies == {}


async def test_a_shadow_answer_goes_nowhere() -> None:
    """The variant answers as well, the client gets the incumbent's answer, nobody is charged."""
    pair = Pair(shares={}, shadows={"next": 1.0})
    pair.incumbent.answer, pair.variant.answer = FakeAnswer([b"old"]), FakeAnswer([b"new"] * 3)
    assert await pair.ask() == b"old"
    while pair.trial.tallies.keys() != {"", "next (shadow)"}:
        await asyncio.sleep(0)
    [shadow] = pair.variant.requests
    assert shadow.usage is None
    await pair.tier.close()


@pytest.mark.parametrize("load", [TierLoad(waiting=1), TierLoad(queued=1), TierLoad(down=True)])
async def test_a_busy_variant_gets_no_shadow(load: TierLoad) -> None:
    """Shadows use idle capacity only."""
    pair = Pair(shares={}, shadows={"next": 1.0})
    pair.variant.state = load
    await pair.ask()
    assert pair.variant.requests == []


async def test_shadows_are_bounded_and_end_with_the_router() -> None:
    """A variant that hangs holds `shadow_calls_max` tasks and no more."""
    pair = Pair(shares={}, shadows={"next": 1.0}, shadow_calls_max=2)
    pair.variant.answer = FakeAnswer([b"one"], hang=True)
    for _ in range(5):
        pair.incumbent.answer = FakeAnswer([b"old"])
        await pair.ask()
        await asyncio.sleep(0)
    assert len(pair.variant.requests) == 2
    await pair.tier.close()
    assert pair.variant.open_exchanges == 0


async def test_the_tier_is_down_when_nobody_with_a_share_is_up() -> None:
    """A variant that is down does not take the tier down, a promoted one does."""
    pair = Pair(shares={"next": 0.5})
    pair.variant.state = TierLoad(down=True)
    assert not pair.tier.down
    pair.trial.configure(make_trial(shares={"next": 1.0}).config)
    assert pair.tier.down
    pair.trial.out["next"] = "faults"
    assert not pair.tier.down


def test_loads_add_up() -> None:
    """Counts are sums, waits are the longest, KV caches are weighted by replicas."""
    one = TierLoad(ongoing=3, waiting=1, replicas=3, running=5, queued=0, kv_free_ratio=0.5)
    two = TierLoad(ongoing=1, first_token_s=0.5, replicas=1, running=1, queued=2, kv_free_ratio=0.1)
    both = merge_loads([one, two], down=False)
    assert (both.ongoing, both.waiting, both.replicas, both.running, both.queued) == (4, 1, 4, 6, 2)
    assert both.first_token_s == 0.5
    assert both.kv_free_ratio == pytest.approx(0.4)
    silent = merge_loads([TierLoad(), TierLoad()], down=True)
    assert silent == TierLoad(down=True)
