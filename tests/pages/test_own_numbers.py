"""The numbers of one Router, and that its engines are watched only while somebody watches."""

from __future__ import annotations

from collections.abc import Sequence

from serve_app.config.runtime import RuntimeConfig
from serve_app.config.tiers import TierConfig
from serve_app.core.call import Decision, Endpoint, Reason, Record
from serve_app.core.load import TierLoad
from serve_app.pages.numbers import EngineNumbers
from serve_app.pages.own_numbers import OwnNumbers
from serve_app.pipeline import Pipeline
from serve_app.routing.scorer import HeuristicScorer
from tests.fakes import FakeTier

TIER = TierConfig(name="fast", model_id="m")


class Watched:
    """A tier that remembers whether it is watched."""

    open_leases = 3

    def __init__(self) -> None:
        self.watched: list[bool] = []

    def load(self) -> TierLoad:
        return TierLoad(waiting=2)

    def watch(self, *, on: bool) -> None:
        self.watched.append(on)

    def engine_reports(self) -> Sequence[tuple[str, int, int, float | None]]:
        return [("e1", 1, 0, 0.5)]


def build(tier: Watched, **runtime: object) -> OwnNumbers:
    config = RuntimeConfig.model_validate({"pages": {"dashboard": True}, **runtime})
    pipeline = Pipeline([TIER], {"fast": FakeTier()}, HeuristicScorer(), config)
    return OwnNumbers("a", pipeline, {"fast": tier})


def make_record() -> Record:
    record = Record("r1", Endpoint.CHAT, stream=False)
    record.decision = Decision("fast", "m", Reason.ONLY_TIER)
    return record


async def test_what_a_router_tells() -> None:
    """Its calls, its leases, its engines, and the state of the routing."""
    routing = {"strong_ratio_target": 0.3, "strong_score_min": 0.4}
    numbers = build(Watched(), routing=routing)
    numbers.settle(make_record())
    told = numbers.read()
    assert (told.router, told.in_flight, told.totals.calls) == ("a", 0, 1)
    assert told.tiers["fast"].leases == 3
    assert told.tiers["fast"].load.waiting == 2
    assert told.tiers["fast"].engines == [EngineNumbers("e1", 1, 0, 0.5)]
    assert (told.routing.target, told.routing.threshold) == (0.3, 0.4)
    assert told.currency is None
    numbers.close()


async def test_engines_are_watched_for_a_while() -> None:
    """From the first question on, until some seconds after the last."""
    tier = Watched()
    numbers = build(tier)
    assert tier.watched == []
    numbers.read()
    numbers.read()
    assert tier.watched == [True]
    numbers.close()
    assert tier.watched == [True, False]
    numbers.close()
    assert tier.watched == [True, False]


async def test_without_a_dashboard_nothing_is_counted() -> None:
    """A Router pays only for what its config has."""
    numbers = build(Watched(), pages={"dashboard": False})
    numbers.settle(make_record())
    assert numbers.read().totals.calls == 0
    numbers.close()
