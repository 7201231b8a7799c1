"""The labeller on real leases and connections, before a scripted engine; no Ray."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from serve_app.config.runtime import LeaseConfig, RuntimeConfig
from serve_app.config.tiers import TierConfig
from serve_app.core.call import Endpoint, Turn
from serve_app.feedback.idle import IdleTiers
from serve_app.feedback.label_maker import LabelMaker
from serve_app.feedback.labeller import IdleLabeller
from serve_app.feedback.sample import Label, Sample
from serve_app.feedback.sampling import TierPair
from serve_app.feedback.tally import Fate, FeedbackTally
from serve_app.leases.client import TierClient
from tests.feedback.fakes import TalkingTier, until
from tests.leases.replica import Replicas, Stats, running

PAIR = TierPair(
    TierConfig(name="fast", model_id="demo-fast"), TierConfig(name="strong", model_id="demo-strong")
)
RUNTIME = RuntimeConfig.model_validate({"feedback": {"directory": "/feedback"}})
SAMPLE = Sample("a", Endpoint.CHAT, (Turn("user", "Hi"),), "42", "strong", True, b"{}")


class Bench:
    """One replica of the strong tier, whose engine is silent, and a label call on it."""

    def __init__(self, tier: Replicas, client: TierClient) -> None:
        self.tier = tier
        [self.replica] = tier.replicas
        self.client = client
        self.stats = Stats()
        self.replica.stats.record(self.stats, None)  # type: ignore[arg-type]  # all that is read of it
        self.tally = FeedbackTally()
        self.labels: list[Label] = []
        tiers = {"fast": TalkingTier(), "strong": client}
        self.labeller = IdleLabeller(
            LabelMaker(PAIR, tiers, RUNTIME),
            IdleTiers(tiers),
            self.tally,
            lambda sample, label: self.labels.append(label),
            quiet_s=0.05,
        )
        self.replica.released.clear()

    async def begin(self) -> None:
        """The label call is at the engine, which says so."""
        self.labeller.offer(SAMPLE)
        await until(lambda: self.replica.asked)
        self.stats.num_running_reqs = 1
        await until(lambda: self.client.load().running == 1)
        assert self.client.load().ongoing == 1

    async def ended(self) -> None:
        """No place is held, on either side."""
        await until(lambda: not self.client.load().ongoing)
        await until(lambda: not len(self.replica.leases))


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    """Everything closed at the end."""
    async with running(1) as tier:
        client = TierClient("strong", tier, LeaseConfig(), board=tier.board)
        client.configure(LeaseConfig(), watches_load=True)
        client.start()
        bench = Bench(tier, client)
        yield bench
        await bench.labeller.close()
        client.close()
        await bench.ended()


async def test_a_users_call_ends_its_lease(bench: Bench) -> None:
    """The connection is dropped, which stops the engine, and the place is free."""
    await bench.begin()
    bench.labeller.call_began()
    await bench.ended()
    assert bench.tally.fates == {Fate.YIELDED: 1}
    bench.labeller.call_ended()


async def test_the_engine_counts_it_and_tells_of_others(bench: Bench) -> None:
    """Its own call in the engine's news is no reason to stop; a second one is, at once."""
    await bench.begin()
    assert bench.client.load().ongoing == 1
    assert not bench.tally.fates
    bench.stats.num_running_reqs = 2
    await bench.ended()
    assert bench.tally.fates == {Fate.YIELDED: 1}


async def test_a_tier_without_places_is_not_marked_down(bench: Bench) -> None:
    """A label call that finds none gives up; users' calls still go there, and wait."""
    client = bench.client
    bench.tier.replicas.clear()  # as while Ray starts one
    bench.labeller.offer(SAMPLE)
    await until(lambda: client.waiting)
    await until(lambda: not client.waiting)
    assert not client.down
    bench.tier.replicas.append(bench.replica)
