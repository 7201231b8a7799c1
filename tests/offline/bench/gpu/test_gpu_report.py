"""The tables of a check."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from serve_app.config.reader import read_serve_config
from serve_app.config.tiers import TierConfig
from serve_app.offline.bench.gpu.estimates import Estimate, build_cpu, estimate, find_card
from serve_app.offline.bench.gpu.gpu_report import build_grids
from serve_app.offline.bench.gpu.results import Results
from serve_app.offline.bench.grids import Grid
from serve_app.offline.bench.journal import render_section
from serve_app.offline.planning.cards import read_card_table
from serve_app.offline.planning.plan import Options, plan_tier
from tests.offline.bench.gpu.fakes import H200, MACHINE, RATES, make_results

CONFIGS = Path(__file__).parents[4] / "configs"


def tier_of(config: str, name: str) -> TierConfig:
    tiers = read_serve_config(CONFIGS / f"{config}.yaml").app.tiers
    return next(tier for tier in tiers if tier.name == name)


def on_h200(name: str = "fast") -> Estimate:
    """The tier of the shipped config, from the table of models: no directory is written."""
    tier = tier_of("gpu-check", name).model_copy(update={"model_source": None})
    return estimate(tier, read_card_table()["H200"], RATES)


def grids() -> dict[str, Grid]:
    return {grid.title: grid for grid in build_grids(make_results(), {"fast": on_h200()})}


def test_the_service_beside_bare_vllm() -> None:
    """One row a batch; what only one of the two has measured has no ratio."""
    rows = grids()["The service beside bare vLLM"].rows
    assert rows == [
        ("fast", "1", "20.0", "20.0", "30.0", "30.0", "160", "152", "0.95", "20% (!)"),
        ("fast", "8", "20.0", "-", "30.0", "-", "1,200", "-", "-", "5%"),
    ]


def test_words_beside_measurements() -> None:
    """vLLM's log, streams, prompts, the driver and measure-rates, each beside the plan's word."""
    rows = {row[0]: row[1:] for row in grids()["What `plan` says, and what was measured"].rows}
    assert rows["fast: weights, GiB"] == ("14.19", "14.25", "1.00")
    assert rows["fast: tokens in the KV cache"] == ("149,792", "149,792", "1.00")
    assert rows["fast: calls of 8,192 tokens at a time"] == ("18.29", "18.29", "1.00")
    assert rows["fast: decode step, 8 streams, ms"][1] == "6.67"
    assert rows["fast: prompt of 1,024 tokens to first token, ms"][1] == "30.0"
    assert rows["fast: answer tokens/s of a replica"][1] == "4,000"
    assert rows["memory of the card that a program can have, GiB"][:2] == ("139.00", "139.80")
    assert rows["memory of the card that all engines take, GiB"][1] == "27.00"


def test_constants_of_the_roofline() -> None:
    """What the plan counts with is read off its own estimates, and set beside the kernels."""
    rows = {row[0]: row[1:] for row in grids()["Constants of the roofline"].rows}
    assert rows["part of the memory's rate reached"][1] == "0.90"
    assert rows["part of the bf16 rate reached"][1] == "0.70"
    assert rows["fp8, TFLOPS"] == ("1,979.00", "1,300.00", "0.66")
    # 6.25 ms a step, of which 14.1 GB take 3.27 ms, over 28 layers.
    assert float(rows["fast: a layer beside reading, µs"][1]) == pytest.approx(106, abs=2)


@pytest.mark.parametrize("name", ["fast", "strong"])
def test_the_plan_taken_apart_is_the_plan(name: str) -> None:
    """Memory and speeds are those that `serve-app plan` prints."""
    tier = tier_of("gpu-check", name).model_copy(update={"model_source": None})
    found, planned = on_h200(name), plan_tier(tier, Options()).variants[0]
    assert found.memory == planned.memory
    assert planned.speed is not None
    assert found.prefill_ms(1024) == pytest.approx(1000 * planned.speed.ttft_s)
    assert found.step_ms(1, 1024, 256) == pytest.approx(1000 / planned.speed.single_tokens_per_s)
    assert found.bytes_per_s is not None
    assert 0.5 < found.bytes_per_s / (read_card_table()["H200"].bandwidth_gb_s * 1e9) <= 1
    assert found.layer_us is not None
    assert 10 < found.layer_us < 200


def test_a_run_that_was_cut_shows_what_it_has() -> None:
    """No table is empty; a failed step is named with its reason."""
    results = make_results()
    results.streams, results.rates, results.engines = [], None, {}
    found = {grid.title: grid for grid in build_grids(results, {"fast": on_h200()})}
    assert "Constants of the roofline" not in found
    assert ("bare", "failed: it ended", "90") in found["Steps"].rows
    assert found["What `doctor` says"].rows == [("warning: disk: slow",)]
    assert all(grid.rows for grid in found.values())


def test_a_cpu_has_no_data_sheet() -> None:
    """Its speeds are estimated from its measured rates, without them not at all."""
    tier = tier_of("local", "fast")
    assert estimate(tier, None, None).step_ms(1, 64, 64) is None
    found = estimate(tier, None, RATES)
    assert found.card == build_cpu(RATES)
    assert found.step_ms(1, 64, 64) is not None
    assert found.memory.kv_tokens == 131072
    rows = build_grids(make_results(gpu=None), {"fast": found})[2].rows
    assert [row[1] for row in rows[:4]] == ["-"] * 4


def test_the_card_by_its_drivers_name() -> None:
    """Where the config names none."""
    tier = TierConfig(name="fast", model_id="m")
    found = {name: find_card(tier, name) for name in ("NVIDIA H200", "NVIDIA L4", "Tesla V100")}
    assert {name: card and card.name for name, card in found.items()} == {
        "NVIDIA H200": "H200",
        "NVIDIA L4": "L4",
        "Tesla V100": None,
    }


def test_a_section_names_date_card_and_figures() -> None:
    """As `--log` appends it."""
    text = render_section(MACHINE, "serve-app bench gpu", list(grids().values()), [str(H200)])
    assert text.startswith("## 2026-11-29 18:00 UTC: `serve-app bench gpu`")
    assert "- NVIDIA H200, 140 GiB, driver 580.95" in text
    assert "| fast: weights, GiB | 14.19 | 14.25 | 1.00 |" in text


def test_results_are_whole_on_disk_at_any_time(tmp_path: Path) -> None:
    """Each writing replaces the file at once."""
    results: Results = make_results()
    results.write(tmp_path / "a.json")
    results.steps = []
    results.write(tmp_path / "a.json")
    found = orjson.loads((tmp_path / "a.json").read_bytes())
    assert found["gpu"]["name"] == "NVIDIA H200"
    assert found["streams"][0]["tokens_per_s"] == 160.0
    assert found["steps"] == []
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
