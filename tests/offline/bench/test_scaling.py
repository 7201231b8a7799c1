"""Ray's autoscaler in the simulation, and the runs that compare policies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.serve._private.common import TimeStampedValue
from ray.serve._private.metrics_utils import aggregate_timeseries
from ray.serve.config import AggregationFunction
from typer.testing import CliRunner

from serve_app.cli.main import app
from serve_app.config.reader import read_serve_config
from serve_app.deploy.plan import plan_policy
from serve_app.offline.bench.ray_controller import average
from serve_app.offline.bench.scaling_picture import draw_runs
from serve_app.offline.bench.scaling_runs import (
    JUDGING_SEEDS,
    LLMSetting,
    RaySetting,
    build_case,
    find_capacity,
    run_joint,
    weigh,
)
from serve_app.offline.simulation.cluster import MetricSample, SimTier, TierView
from serve_app.offline.simulation.hardware import fast_tier, strong_tier, token_rates
from serve_app.offline.simulation.trace import DOCUMENTS, Shape, all_shapes

PROD = Path(__file__).parents[3] / "configs" / "prod.yaml"


def view(samples: Sequence[MetricSample], *, ready: int = 1, target: int = 1) -> TierView:
    return TierView(ready, target, samples, {})


@given(st.lists(st.integers(0, 500), min_size=1, max_size=8), st.floats(0.1, 10.0))
def test_the_mean_is_rays(values: list[int], late_s: float) -> None:
    """A report is reduced over time as Ray's controller does it."""
    samples = [MetricSample(2.0 * index, value, 0, 0) for index, value in enumerate(values)]
    now_s = samples[-1].at_s + late_s
    expected = aggregate_timeseries(
        [TimeStampedValue(sample.at_s, sample.ongoing) for sample in samples],
        AggregationFunction.MEAN,
        last_window_s=late_s,
    )
    assert average(values, view(samples), now_s) == pytest.approx(expected)


def test_rays_policy_with_its_delay() -> None:
    """Calls over the target, once that has held for the delay; at once where there is none."""
    tier = fast_tier()
    samples = [MetricSample(0.0, 90, 10, 0)]
    slow, _ = RaySetting(10.0, upscale_delay_s=30.0).build(tier)
    told = [slow.decide(float(at_s), [view(samples)])[0] for at_s in range(40)]
    assert told.index(10) == 30
    assert set(told[:30]) == {1}
    quick, _ = RaySetting(10.0, upscale_delay_s=0.0).build(tier)
    assert quick.decide(0.0, [view(samples)]) == [10]


def test_rays_policy_keeps_its_bounds() -> None:
    """Never more than there may be, and no division by nothing."""
    tier = fast_tier()
    quick, _ = RaySetting(1.0, upscale_delay_s=0.0).build(tier)
    assert quick.decide(0.0, [view([MetricSample(0.0, 999, 0, 0)])]) == [tier.replicas_max]
    assert quick.decide(1.0, [view([])]) == [1]


def test_a_replica_carries_about_what_its_rates_say() -> None:
    """What trial finds is a fifth below what the two token rates promise, at most."""
    tier = strong_tier()
    prompt, output = DOCUMENTS
    mean = [length.median * np.exp(length.sigma**2 / 2) for length in (prompt, output)]
    rates = token_rates(tier.timing, mean[0] + mean[1] / 2)
    promised = 1 / (mean[0] / rates[0] + mean[1] / rates[1])
    assert 0.8 * promised < find_capacity(tier, prompt, output) < promised


def test_the_llm_policy_takes_fewer_gpus_for_the_same_service() -> None:
    """A steady load: nobody misses the target, with GPU-hours close to the oracle's."""
    shape = Shape("steady", 1200.0, 3.0, lambda at_s: np.full_like(at_s, 3.0), *DOCUMENTS)
    case = build_case(strong_tier(), shape, 1)
    ours, rays = case.run(LLMSetting(0.9, 120.0)), case.run(RaySetting(38.4))
    assert ours.outcome.missed_ratio <= 0.01
    assert rays.outcome.missed_ratio <= 0.01
    assert weigh(case, ours) < weigh(case, rays)


def test_spilled_calls_are_answered_while_the_strong_tier_starts() -> None:
    """Jointly fewer calls miss their target than if each tier looks at itself."""
    alone, joint = run_joint(1, "llm"), run_joint(1, "joint, spill")
    assert joint.strong.missed < 0.6 * alone.strong.missed
    assert joint.gpu_hours < 1.1 * alone.gpu_hours


def test_a_deadline_halves_the_missed_calls_where_calls_spill() -> None:
    """Calls that would be late go to the other tier at once, so neither tier works in vain."""
    waiting, rejecting = run_joint(1, "joint, spill"), run_joint(1, "joint, spill, deadline")
    assert rejecting.strong.missed <= 0.5 * waiting.strong.missed
    assert rejecting.fast.missed <= waiting.fast.missed
    assert rejecting.gpu_hours < 1.1 * waiting.gpu_hours


def test_a_picture_of_every_run(tmp_path: Path) -> None:
    """A small PNG."""
    shape = Shape("short", 600.0, 1.0, np.ones_like, *DOCUMENTS)
    case = build_case(strong_tier(), shape, 1)
    path = tmp_path / "a" / "picture.png"
    draw_runs("short", case.trace, {"oracle": case.oracle}, path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size < 100_000


def test_the_command_says_what_it_can_do() -> None:
    """Its help, without Ray being imported for it."""
    result = CliRunner().invoke(app, ["bench", "scaling", "--help"])
    assert result.exit_code == 0
    assert "GPU-hours" in result.output


class ShippedSetting(LLMSetting):
    """The llm policy with the keys of a tier of `configs/prod.yaml`, rates and all."""

    def rules(self, tier: SimTier) -> dict[str, object]:
        shipped = read_serve_config(PROD).app.tiers[1]
        return {**plan_policy(shipped), "max": tier.replicas_max}


def test_what_ships_does_better_than_what_shipped_before() -> None:
    """On the step of the 72B: fewer calls missed, for fewer GPU-hours, at estimated rates."""
    step = next(shape for shape in all_shapes() if shape.name == "10x step")
    case = build_case(strong_tier(), step, JUDGING_SEEDS[0])
    before = case.run(RaySetting(48.0, upscale_delay_s=10.0, downscale_delay_s=1800.0)).outcome
    shipped = case.run(ShippedSetting(0.8, 300.0)).outcome
    assert shipped.missed_ratio < before.missed_ratio
    assert shipped.gpu_hours < 0.9 * before.gpu_hours
