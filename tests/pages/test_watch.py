"""Routers are asked only while somebody watches, and a Router that hangs hides no other one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing

import pytest

from serve_app.core.call import TierState
from serve_app.core.errors import TooManyCalls
from serve_app.pages.numbers import RouterNumbers
from serve_app.pages.watch import WATCHERS_MAX, NumbersWatch, Replies, gather_replies
from tests.pages.test_summary import AT, STATES, make_router


class Source:
    """Routers and states from a script."""

    def __init__(self) -> None:
        self.asked = 0
        self.error: Exception | None = None

    async def ask(self) -> Replies:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return Replies([make_router()])

    async def tiers(self) -> Sequence[TierState]:
        return STATES


def make_watch(source: Source, states: object = None) -> NumbersWatch:
    given = source if states is None else states
    return NumbersWatch(
        source.ask,
        given,  # type: ignore[arg-type]
        STATES,
        period_s=0.01,
        ask_s=0.05,
        clock=lambda: AT,
    )


async def test_one_question_serves_all_watchers() -> None:
    """Their number does not matter."""
    source = Source()
    watch = make_watch(source)
    async with aclosing(watch.follow()) as one, aclosing(watch.follow()) as other:
        first = asyncio.gather(anext(one), anext(other))
        documents = await first
    assert documents[0] == documents[1]
    assert json.loads(documents[0])["routers"][0]["router"] == "a"
    assert source.asked == 1
    watch.close()


async def test_nobody_is_asked_while_nobody_watches() -> None:
    """The questions end with the last watcher, and begin again with the next one."""
    source = Source()
    watch = make_watch(source)
    assert source.asked == 0
    for _ in range(2):
        async with aclosing(watch.follow()) as numbers:
            await anext(numbers)
        while watch._task is not None:
            await asyncio.sleep(0)


async def test_a_failure_ends_nothing() -> None:
    """The next question is asked all the same."""
    source = Source()
    source.error = OSError("gone")
    watch = make_watch(source)
    async with aclosing(watch.follow()) as numbers:
        waiting = asyncio.ensure_future(anext(numbers))
        while source.asked < 3:
            await asyncio.sleep(0)
        source.error = None
        assert json.loads(await waiting)["missing"] == 0
    watch.close()


async def hang() -> RouterNumbers:
    await asyncio.Event().wait()
    raise AssertionError


async def fail() -> RouterNumbers:
    raise OSError


class HangingStates:
    """A controller that does not answer."""

    async def tiers(self) -> Sequence[TierState]:
        await hang()
        return ()


async def test_states_that_do_not_come() -> None:
    """The last known states are shown, and that they are old."""
    watch = make_watch(Source(), HangingStates())
    async with aclosing(watch.follow()) as numbers:
        document = json.loads(await anext(numbers))
    assert document["unclear"].startswith("Serve's controller does not answer")
    assert [tier["name"] for tier in document["tiers"]] == ["fast", "strong"]
    watch.close()


async def test_the_number_of_watchers_is_bounded() -> None:
    """Each of them holds a connection."""
    watch = make_watch(Source())
    streams = [watch.follow() for _ in range(WATCHERS_MAX)]
    await asyncio.gather(*(anext(stream) for stream in streams))
    with pytest.raises(TooManyCalls):
        await anext(watch.follow())
    for stream in streams:
        await stream.aclose()  # type: ignore[attr-defined]
    watch.close()


@pytest.mark.parametrize("bad", [hang, fail])
async def test_the_replies_that_come(bad: Callable[[], Awaitable[RouterNumbers]]) -> None:
    """A Router that hangs or fails is counted as missing."""

    async def answer() -> RouterNumbers:
        return make_router()

    replies = await gather_replies([bad(), answer()], 0.05)
    assert [each.router for each in replies.numbers] == ["a"]
    assert replies.missing == 1
    assert await gather_replies([]) == Replies(())
