"""What a config may begin with: rates and queues out of the plan, and the shipped configs by it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.config.reader import ServeConfig, read_serve_config
from serve_app.offline.planning.plan import Options, Plan, make_plan
from serve_app.offline.planning.queues import Queue, plan_queues
from serve_app.offline.planning.roofline import Workload
from serve_app.offline.planning.starting import Rates, round_down
from tests.offline.planning.tiers import tier

CONFIGS = Path(__file__).parents[3] / "configs"
ESTIMATE_MAY_MOVE = 0.25
"""By how much the shipped rates may be off today's estimates: these move with every correction of
the roofline, and by less than what they are off the truth."""
LOADS = {
    ("prod", "fast"): Workload(2000, 400),
    ("prod", "strong"): Workload(2000, 400),
    ("prod-qwen3", "fast"): Workload(2000, 400),
    ("prod-qwen3", "strong"): Workload(2000, 4000),
}
"""The typical calls that the configs name beside their rates."""
every_tier = pytest.mark.parametrize(("config", "name"), LOADS)


def load(config: str, typical: Workload | None = None) -> tuple[ServeConfig, Plan]:
    loaded = read_serve_config(CONFIGS / f"{config}.yaml")
    return loaded, make_plan(loaded.app.tiers, Options(load=typical or Workload()))


@every_tier
def test_the_shipped_rates_are_those_of_the_plan(config: str, name: str) -> None:
    """Every GPU tier scales by the work that comes, at rates that `plan` prints."""
    loaded, plan = load(config, LOADS[config, name])
    replicas = next(tier for tier in loaded.app.tiers if tier.name == name).replicas
    planned = plan.rates[name]
    assert planned is not None
    assert replicas.policy == "llm"
    for key in ("prompt_tokens_per_s", "output_tokens_per_s"):
        expected = pytest.approx(getattr(planned, key), rel=ESTIMATE_MAY_MOVE)
        assert getattr(replicas, key) == expected, key


@every_tier
def test_no_shipped_config_queues_what_it_cannot_serve(config: str, name: str) -> None:
    """The last of a full queue gets its place in time; and the time is not left unused."""
    loaded, plan = load(config, LOADS[config, name])
    queues = {queue.tier: queue for queue in plan_queues(loaded, plan.rates, plan.load)}
    assert list(queues[name].check()) == []
    assert queues[name].queued_max > queues[name].served_max / 4


def test_rates_add_up_to_the_speed_of_a_full_replica() -> None:
    """Prompt and answer of the typical call take, one after the other, what the plan says."""
    fields = {"engine": {"max_num_seqs": 64}, "max_ongoing_calls": 64}
    one = tier(replicas={"target_ongoing_calls": 64}, **fields)
    [variant] = make_plan([one], Options()).tiers[0].variants
    assert variant.rates is not None
    assert variant.speed is not None
    assert variant.rates.calls_per_s(Workload()) == pytest.approx(variant.speed.calls_per_s)


def test_a_full_replica_has_more_calls_than_scaling_aims_at() -> None:
    """Rates are of as many calls as a replica takes, by whatever bounds them."""

    def rate(**fields: object) -> float:
        engine = {"max_num_seqs": 256}
        one = tier(**{"max_ongoing_calls": 256, "engine": engine, **fields})
        made = make_plan([one], Options())
        rates = made.tiers[0].variants[0].rates
        assert rates is not None
        return rates.output_tokens_per_s

    assert rate(replicas={"target_ongoing_calls": 8}) == rate()
    assert rate(max_ongoing_calls=32) < rate()
    assert rate(engine={"max_num_seqs": 32}) == rate(max_ongoing_calls=32)


def test_a_tier_on_cpu_has_no_rates() -> None:
    """No speed is claimed for a CPU, so no queue is either."""
    config, plan = load("local")
    assert plan.rates == {"fast": None, "strong": None}
    assert list(plan_queues(config, plan.rates, plan.load)) == []


def test_measured_rates_count_before_estimates() -> None:
    """A queue goes by what the config says of its replicas."""
    config, plan = load("prod")
    tenfold = {
        name: Rates(10 * rates.prompt_tokens_per_s, 10 * rates.output_tokens_per_s)
        for name, rates in plan.rates.items()
        if rates is not None
    }
    before = [queue.served_max for queue in plan_queues(config, plan.rates, plan.load)]
    assert [queue.served_max for queue in plan_queues(config, tenfold, plan.load)] == before


def test_a_queue_that_is_too_long_says_what_would_do() -> None:
    """Three Routers before one replica of seven calls a second, by hand."""
    queue = Queue("strong", calls_per_s=7.0, lease_s=60.0, routers=3, queued_max=512)
    assert queue.served_max == 140
    assert queue.last_wait_s == pytest.approx(3 * 512 / 7)
    [finding] = queue.check()
    assert not finding.fatal
    assert "served after 219 s" in finding.what
    assert "max_queued_calls: 140" in finding.mend
    assert "lease_s: 220" in finding.mend


def test_a_wait_of_hours_is_no_remedy() -> None:
    """`lease_s` has a bound; beyond it only the queue or the replicas can give way."""
    [finding] = Queue("strong", 0.1, 60.0, 3, 512).check()
    assert "lease_s" not in finding.mend


@given(st.floats(1e-3, 1e7), st.floats(1, 3600), st.integers(1, 64))
def test_what_is_advised_is_accepted(calls_per_s: float, lease_s: float, routers: int) -> None:
    """A queue of the advised length has nothing wrong with it."""
    queue = Queue("fast", calls_per_s, lease_s, routers, 10**9)
    advised = int(round_down(queue.served_max))
    assert list(Queue("fast", calls_per_s, lease_s, routers, advised).check()) == []


@given(st.floats(1e-6, 1e12))
def test_rounding_never_promises_more(value: float) -> None:
    """Two digits, and at most a tenth less."""
    rounded = round_down(value)
    assert 0.9 * value < rounded <= value * (1 + 1e-9)
    assert float(f"{rounded:.2g}") == pytest.approx(rounded)
