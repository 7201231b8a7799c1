"""The steps of the check, and its command line."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
import torch
import typer
from typer.testing import CliRunner

from serve_app.config.reader import read_serve_config
from serve_app.offline.bench.generator import run_load_generator
from serve_app.offline.bench.gpu.command import check_card, gpu
from serve_app.offline.bench.gpu.driver import find_gpu, read_used_gib
from serve_app.offline.bench.gpu.gpu_errors import WrongCard
from serve_app.offline.bench.gpu.kernels import Sizes, measure
from serve_app.offline.bench.gpu.results import Gpu
from serve_app.offline.bench.gpu.steps import Check, Settings, parse_rates
from tests.offline.bench.gpu.fakes import H200, make_results

CONFIGS = Path(__file__).parents[4] / "configs"
UNKNOWN = """
applications:
  - name: llm
    import_path: serve_app.app:build
    args:
      tiers:
        - {name: fast, model_id: org/unknown, engine: {load_format: dummy}}
"""


def run(tmp_path: Path, settings: Settings, *names: str) -> tuple[bool, list[tuple[str, str]]]:
    """The steps as they are on disk afterwards, and whether all were done."""
    path, output = tmp_path / "config.yaml", tmp_path / "out.json"
    path.write_text(UNKNOWN)
    results = make_results()
    results.steps = []
    check = Check(path, read_serve_config(path), settings, results, output, lambda _: None)
    with run_load_generator() as generator:
        good = check.run(names, generator)
    steps = orjson.loads(output.read_bytes())["steps"]
    return good, [(step["name"], step["outcome"]) for step in steps]


def test_a_step_that_fails_does_not_take_the_next_along(tmp_path: Path) -> None:
    """Its reason is kept, in a line; the run as a whole was not good."""
    good, steps = run(tmp_path, Settings(), "models", "models")
    assert not good
    assert len(steps) == 2
    assert all(outcome.startswith("failed: tiers.fast: no config.json") for _, outcome in steps)


def test_no_step_begins_after_the_budget(tmp_path: Path) -> None:
    """What was left out is said."""
    good, steps = run(tmp_path, Settings(budget_s=0), "models")
    assert (good, steps) == (False, [("models", "left out: the budget of 0 s is spent")])


@pytest.mark.parametrize(
    ("config", "found", "words"),
    [
        ("gpu-check", None, "on H200, and the GPU here is none"),
        ("gpu-check", Gpu("NVIDIA L4", 1.0, "580"), "on H200, and the GPU here is NVIDIA L4"),
        ("gpu-check", H200, ""),
        ("local", None, ""),
    ],
)
def test_the_card_must_be_the_configs(config: str, found: Gpu | None, words: str) -> None:
    """Ray would wait for the other one without a word."""
    loaded = read_serve_config(CONFIGS / f"{config}.yaml")
    if not words:
        check_card(loaded, found)
        return
    with pytest.raises(WrongCard, match=words):
        check_card(loaded, found)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--only", "kernels,nginx"], "'nginx' is none of models,doctor,kernels,bare,service"),
        (["--batches", "0"], "at least 1"),
        (["--log", "/nowhere/log.md"], "cannot be written: No such file or directory"),
        (["--config", "/nowhere.yaml"], "/nowhere.yaml: No such file or directory"),
    ],
)
def test_wrong_arguments(arguments: list[str], complaint: str) -> None:
    """What cannot be measured is refused before anything starts."""
    app = typer.Typer()
    app.command()(gpu)
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert complaint in " ".join(result.output.replace("│", " ").split())


def test_the_gpu_by_its_driver() -> None:
    """The first one counts; without a driver there is none."""
    cards = {
        "name,memory.total,driver_version": "NVIDIA H200, 143771, 580.95.05\nNVIDIA L4, 1, 2\n",
        "memory.used": "27648\n0\n",
    }
    assert find_gpu(lambda arguments: cards[arguments[0].partition("=")[2]]) == Gpu(
        "NVIDIA H200", 143771.0, "580.95.05"
    )
    assert read_used_gib(lambda arguments: cards[arguments[0].partition("=")[2]]) == 27.0
    assert find_gpu(lambda _: None) is None
    assert read_used_gib(lambda _: "") is None


def test_kernels_on_a_cpu() -> None:
    """Every rate is there but for FP8, which a CPU does not compute in."""
    sizes = Sizes(copied_bytes=4096, rows=16, columns=16, square=16, wait_s=0.001)
    rates = measure(torch.device("cpu"), sizes)
    assert min(rates.copy_gb_s, rates.read_gb_s, rates.bf16_tflops, rates.launch_us) > 0
    assert (rates.device, rates.fp8_tflops, rates.memory_gib) == ("CPU", None, None)


def test_rates_of_a_replica() -> None:
    """As `serve-app measure-rates --json` prints them."""
    text = '{"tier":"fast","replicas":1,"prompt_tokens_per_s":9.5,"output_tokens_per_s":4.0}'
    found = parse_rates(text)
    assert (found.tier, found.prompt_tokens_per_s, found.output_tokens_per_s) == ("fast", 9.5, 4.0)
