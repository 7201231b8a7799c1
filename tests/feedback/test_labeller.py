"""The worker that asks the other tier while nobody else wants it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from serve_app.config.runtime import DeadlinesConfig, RuntimeConfig
from serve_app.config.tiers import TierConfig
from serve_app.core.call import Endpoint, Turn
from serve_app.core.errors import TierOverloaded, UpstreamFailed
from serve_app.core.load import TierLoad
from serve_app.feedback.ask import shorten
from serve_app.feedback.idle import IdleTiers
from serve_app.feedback.label_maker import LabelMaker
from serve_app.feedback.labeller import TRIES_MAX, IdleLabeller, State
from serve_app.feedback.sample import Label, Sample
from serve_app.feedback.sampling import TierPair
from serve_app.feedback.tally import Fate, FeedbackTally
from tests.feedback.fakes import TalkingTier, until

PAIR = TierPair(
    TierConfig(name="fast", model_id="demo-fast"), TierConfig(name="strong", model_id="demo-strong")
)
POLLS_S = 0.15
"""Long enough for many polls of a labeller that polls every 5 ms."""


def runtime(**feedback: object) -> RuntimeConfig:
    return RuntimeConfig.model_validate({"feedback": {"directory": "/feedback", **feedback}})


def sample(name: str = "a", answer: str = "42", *, asks: str = "strong") -> Sample:
    body = json.dumps({"messages": [{"role": "user", "content": name}]}).encode()
    turns = (Turn("user", name),)
    return Sample(name, Endpoint.CHAT, turns, answer, asks, asks == "strong", body)


class Bench:
    """A labeller between two talking tiers."""

    def __init__(self) -> None:
        self.fast, self.strong = TalkingTier(), TalkingTier()
        self.tally = FeedbackTally()
        self.labels: list[tuple[str, Label]] = []
        self.labeller = self.build()

    def build(self, quiet_s: float = 0.0) -> IdleLabeller:
        tiers = {"fast": self.fast, "strong": self.strong}
        return IdleLabeller(
            LabelMaker(PAIR, tiers, runtime()),
            IdleTiers(tiers),
            self.tally,
            lambda sample, label: self.labels.append((sample.request_id, label)),
            quiet_s=quiet_s,
            poll_s=0.005,
        )

    async def finish(self) -> None:
        await until(lambda: not self.labeller.pending)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    """Closed after the test; then no call may be open."""
    bench = Bench()
    yield bench
    await bench.labeller.close()
    assert bench.fast.open_exchanges == bench.strong.open_exchanges == 0


async def test_the_same_answer_is_right_twice(bench: Bench) -> None:
    """The other tier is asked the same body, under an id of its own."""
    bench.labeller.offer(sample())
    await bench.finish()
    assert bench.labels == [("a", Label(1.0, 1.0, "match", same=True))]
    [request] = bench.strong.requests
    assert request.request_id == "label-a"
    assert not request.stream
    assert bench.strong.bodies() == [{"messages": [{"role": "user", "content": "a"}]}]
    assert not bench.fast.requests


async def test_a_users_call_stops_it_at_once(bench: Bench) -> None:
    """In the same turn of the loop the label call is cancelled, which stops its engine; when the
    call is over the sample is tried again."""
    bench.strong.silent = True
    bench.labeller.offer(sample())
    await until(lambda: bench.strong.open_exchanges)
    bench.labeller.call_began()
    for _ in range(3):
        await asyncio.sleep(0)
    assert not bench.strong.open_exchanges
    bench.strong.silent = False
    await asyncio.sleep(POLLS_S)
    assert len(bench.strong.requests) == 1
    bench.labeller.call_ended()
    await bench.finish()
    assert len(bench.strong.requests) == 2
    assert [name for name, _ in bench.labels] == ["a"]
    assert bench.tally.fates == {Fate.YIELDED: 1}


async def test_the_stopped_sample_is_the_next(bench: Bench) -> None:
    """It goes back to the front, and an answer that it had is not asked for again."""
    bench.labeller.configure(runtime(compare="judge"))
    bench.fast.say = lambda body: "41"
    bench.strong.silent = True
    bench.labeller.offer(sample("a", asks="fast"))
    bench.labeller.offer(sample("b", asks="fast"))
    await until(lambda: bench.strong.open_exchanges)
    bench.labeller.call_began()
    bench.labeller.call_ended()
    bench.strong.silent = False
    bench.strong.say = lambda body: '{"a_right": true, "b_right": true}'
    await bench.finish()
    assert [name for name, _ in bench.labels] == ["a", "b"]
    assert len(bench.fast.requests) == 2


async def test_it_waits_until_there_has_been_no_call_for_a_while(bench: Bench) -> None:
    """A user who reads is about to ask the next question."""
    bench.labeller = bench.build(quiet_s=0.2)
    bench.labeller.call_began()
    bench.labeller.offer(sample())
    await asyncio.sleep(POLLS_S)
    assert not bench.strong.requests
    ended = asyncio.get_running_loop().time()
    bench.labeller.call_ended()
    await bench.finish()
    assert asyncio.get_running_loop().time() - ended >= 0.2
    assert len(bench.labels) == 1


@pytest.mark.parametrize(
    "load",
    [
        TierLoad(down=True),
        TierLoad(ongoing=1),
        TierLoad(waiting=1),
        TierLoad(running=1, queued=0),
        TierLoad(running=0, queued=1),
    ],
)
async def test_a_tier_that_others_use_is_not_asked(
    bench: Bench, load: TierLoad, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor one that is down; once it is free, it is."""
    monkeypatch.setattr(bench.strong, "load", lambda: load)
    bench.labeller.offer(sample())
    await asyncio.sleep(POLLS_S)
    assert not bench.strong.requests
    monkeypatch.undo()
    await bench.finish()
    assert len(bench.labels) == 1


async def test_calls_of_other_routers_stop_it(bench: Bench) -> None:
    """The engines tell of them; its own label calls are no reason to stop."""
    bench.strong.silent = bench.strong.told = True
    bench.labeller.offer(sample())
    await until(lambda: bench.strong.open_exchanges)
    await asyncio.sleep(POLLS_S)
    assert bench.strong.open_exchanges == 1
    bench.strong.foreign = 1
    await until(lambda: not bench.strong.open_exchanges)
    bench.strong.silent = False
    await asyncio.sleep(POLLS_S)
    assert bench.tally.fates == {Fate.YIELDED: 1}
    assert len(bench.strong.requests) == 1
    bench.strong.foreign = 0
    await bench.finish()
    assert len(bench.labels) == 1


async def test_pauses_grow_while_it_fails(bench: Bench) -> None:
    """Calls of other Routers, too, show only once a label call is under way, so trying becomes
    rare; a label shows that the trouble is over."""
    bench.labeller = bench.build(quiet_s=0.04)
    bench.strong.errors = [UpstreamFailed()] * 3
    started = asyncio.get_running_loop().time()
    for name in "ab":
        bench.labeller.offer(sample(name))
    await bench.finish()
    assert asyncio.get_running_loop().time() - started >= 0.04 + 0.08 + 0.16
    assert len(bench.labels) == 2
    bench.strong.errors = [UpstreamFailed()]
    bench.labeller.offer(sample("c"))
    await bench.finish()
    assert len(bench.labels) == 3


async def test_old_news_of_its_own_calls_do_not_stop_it(bench: Bench) -> None:
    """The engines' word is up to two seconds old: what it counts may be a label call of ours that
    has ended since."""
    bench.strong.told = True
    bench.labeller.offer(sample("a"))
    await bench.finish()
    bench.strong.foreign = 1  # as if the engine had not told anything since
    bench.strong.silent = True
    bench.labeller.offer(sample("b"))
    await until(lambda: len(bench.strong.requests) == 2)


async def test_after_three_tries_it_gives_up(bench: Bench) -> None:
    """Whether the tier fails or users come each time."""
    bench.strong.errors = [UpstreamFailed()] * TRIES_MAX
    bench.labeller.offer(sample())
    await bench.finish()
    assert len(bench.strong.requests) == TRIES_MAX
    assert bench.tally.fates == {Fate.GIVEN_UP: 1}
    bench.strong.silent = True
    bench.labeller.offer(sample("b"))
    for number in range(1, TRIES_MAX + 1):
        await until(lambda asked=TRIES_MAX + number: len(bench.strong.requests) == asked)  # type: ignore[misc]
        bench.labeller.call_began()
        bench.labeller.call_ended()
    await bench.finish()
    assert bench.tally.fates[Fate.GIVEN_UP] == 2
    assert not bench.labels


async def test_one_that_fails_does_not_hold_up_the_others(bench: Bench) -> None:
    """It goes to the end of the queue."""
    bench.strong.errors = [TierOverloaded(5)]
    bench.labeller.offer(sample("a"))
    bench.labeller.offer(sample("b"))
    await bench.finish()
    assert [name for name, _ in bench.labels] == ["b", "a"]


async def test_an_engine_that_refuses_is_not_asked_again(bench: Bench) -> None:
    """A 4xx would come each time, say for a prompt that is too long for that model."""
    bench.strong.status = 400
    bench.labeller.offer(sample())
    await bench.finish()
    assert len(bench.strong.requests) == 1
    assert bench.tally.fates == {Fate.REFUSED: 1}


async def test_the_state_names_what_it_waits_for(bench: Bench) -> None:
    """Clients' calls, then the pause after them, then a tier that is not idle, then a label."""
    bench.labeller = bench.build(quiet_s=0.05)
    assert bench.labeller.state is State.DONE
    bench.strong.silent = bench.strong.told = True
    bench.strong.foreign = 1
    bench.labeller.call_began()
    bench.labeller.offer(sample())
    assert bench.labeller.state is State.SERVING
    bench.labeller.call_ended()
    assert bench.labeller.state is State.PAUSING
    await until(lambda: bench.labeller.state is State.WATCHING)
    assert not bench.strong.requests
    bench.strong.foreign = 0
    await until(lambda: bench.labeller.state is State.LABELLING)
    await bench.labeller.close()
    assert bench.labeller.state is State.DONE


async def test_no_more_than_the_config_says_at_a_time(bench: Bench) -> None:
    """Its own calls on a tier do not count as others'."""
    bench.labeller.configure(runtime(concurrency=3))
    bench.strong.silent = bench.strong.told = True
    for number in range(5):
        bench.labeller.offer(sample(str(number)))
    await until(lambda: bench.strong.open_exchanges == 3)
    await asyncio.sleep(POLLS_S)
    assert bench.strong.open_exchanges == len(bench.strong.requests) == 3


async def test_switched_off_it_forgets(bench: Bench) -> None:
    """Samples that wait go when the operator switches the log off."""
    bench.labeller.call_began()
    bench.labeller.offer(sample())
    bench.labeller.configure(RuntimeConfig())
    bench.labeller.call_ended()
    await bench.finish()
    assert not bench.strong.requests


async def test_closing_stops_its_calls(bench: Bench) -> None:
    """A Router that ends leaves no call on an engine, and no task."""
    bench.strong.silent = True
    bench.labeller.offer(sample("a"))
    bench.labeller.offer(sample("b"))
    await until(lambda: bench.strong.open_exchanges)
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    assert len(tasks) == 2, "the labeller and the label call"
    await bench.labeller.close()
    assert not bench.strong.open_exchanges
    assert not bench.labeller.pending
    assert all(task.done() for task in tasks)


def test_label_calls_have_short_deadlines() -> None:
    """Those of the config where they are shorter still."""
    assert shorten(DeadlinesConfig()).total_s == 60
    assert shorten(DeadlinesConfig()).lease_s == 2
    assert shorten(DeadlinesConfig(total_s=5, lease_s=1)) == DeadlinesConfig(total_s=5, lease_s=1)


async def pay_labels(bench: Bench, *calls: int) -> None:
    """The labeller may take a tenth of the tokens of these calls, and one call is in flight."""
    bench.labeller.configure(runtime(budget_ratio=0.1))
    bench.labeller.call_began()
    for tokens in calls:
        bench.labeller.call_began()
        bench.labeller.call_ended(tokens)


async def test_a_busy_service_pays_for_labels(bench: Bench) -> None:
    """With enough tokens earned a label call begins although a call is in flight."""
    await pay_labels(bench, 6000)
    bench.labeller.offer(sample())
    await asyncio.sleep(POLLS_S)
    assert not bench.strong.requests
    bench.labeller.call_began()
    bench.labeller.call_ended(5000)
    await bench.finish()
    assert [name for name, _ in bench.labels] == ["a"]


async def test_a_paid_label_call_goes_on(bench: Bench) -> None:
    """Further calls do not stop what has been paid for; the claim says that it comes last."""
    await pay_labels(bench, 20_000)
    bench.strong.silent = True
    bench.labeller.offer(sample())
    await until(lambda: bench.strong.open_exchanges)
    bench.labeller.call_began()
    await asyncio.sleep(POLLS_S)
    assert bench.strong.open_exchanges == 1
    assert bench.strong.requests[0].claim.batch
    assert Fate.YIELDED not in bench.tally.fates


async def test_no_label_is_paid_where_calls_wait(bench: Bench) -> None:
    """A tier that lets calls wait has no room for a label, whoever pays."""
    bench.strong.state = TierLoad(waiting=1)
    await pay_labels(bench, 20_000)
    bench.labeller.offer(sample())
    await asyncio.sleep(POLLS_S)
    assert not bench.strong.requests
    bench.strong.state = TierLoad()
    await bench.finish()
    assert [name for name, _ in bench.labels] == ["a"]


async def test_a_label_costs_what_its_answer_says(bench: Bench) -> None:
    """An expensive label empties the balance, so that the next one waits."""
    bench.strong.usage = {"total_tokens": 4000}
    await pay_labels(bench, 20_000)
    bench.labeller.offer(sample("a"))
    bench.labeller.offer(sample("b"))
    await until(lambda: bench.labels)
    await asyncio.sleep(POLLS_S)
    assert [name for name, _ in bench.labels] == ["a"]
