"""`serve-app bench gpu`: the real pair of models on one GPU, or the demo pair on CPU."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from serve_app import demo
from serve_app.config.reader import ConfigError, ServeConfig, read_serve_config, run_dir
from serve_app.core.outputs import make_directory
from serve_app.offline.bench.generator import run_load_generator
from serve_app.offline.bench.gpu.driver import find_gpu
from serve_app.offline.bench.gpu.estimates import Estimate, estimate, find_card
from serve_app.offline.bench.gpu.gpu_errors import WrongCard
from serve_app.offline.bench.gpu.gpu_report import build_grids
from serve_app.offline.bench.gpu.results import Gpu, Results
from serve_app.offline.bench.gpu.steps import Check, Settings
from serve_app.offline.bench.journal import append_section, print_report, render_section
from serve_app.offline.bench.machine import describe_machine
from serve_app.offline.bench.options import check_outputs, parse_counts
from serve_app.offline.bench.results import build_console
from serve_app.offline.planning.planning_errors import PlanningFailed

STEPS = ("models", "doctor", "kernels", "bare", "service")
_ALL = ",".join(STEPS)
_GPU_CONFIG = Path("configs/gpu-check.yaml")
_CPU_CONFIG = Path("configs/local.yaml")
_BATCHES = "1,8,64"
_CPU = Settings(prompts=(1024,), warmup_s=2.0, window_s=5.0, start_s=240.0)
_TERMINATED = 128 + signal.SIGTERM
_NO_GPU = "This machine has no GPU: the demo models on the CPU only show that the check works."


def gpu(
    config: Annotated[
        Path | None,
        typer.Option(
            help=f"A Serve config file. Default: {_GPU_CONFIG}, or without a GPU {_CPU_CONFIG}."
        ),
    ] = None,
    only: Annotated[
        str, typer.Option(help=f"Steps, separated by commas: {', '.join(STEPS)}.")
    ] = _ALL,
    batches: Annotated[
        str, typer.Option(help="Numbers of concurrent streams, separated by commas.")
    ] = _BATCHES,
    output_tokens: Annotated[
        int, typer.Option(min=2, max=3000, help="Tokens of each stream.")
    ] = Settings().output_tokens,
    window_s: Annotated[
        float | None,
        typer.Option(min=1, max=600, help="Seconds of each batch. Default: 10 on a GPU, 5 on CPU."),
    ] = None,
    budget_s: Annotated[
        float, typer.Option(min=1, help="Seconds after which no further step begins.")
    ] = Settings().budget_s,
    json: Annotated[
        Path | None,
        typer.Option(
            help="JSON file for every number, written after each step; the logs are in a "
            "directory of that name."
        ),
    ] = None,
    log: Annotated[
        Path | None,
        typer.Option(
            help="Log file to which a section is appended, for example docs/bench-log.md."
        ),
    ] = None,
) -> None:
    """Compare plan and doctor with measurements of one GPU, and the service with bare vLLM.

    Exit code 0: every step succeeded. 1: a step failed. 2: the command itself is wrong.
    """
    # An exception, so that servers end in order and the measurements are shown.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))
    found = find_gpu()
    path = config or (_CPU_CONFIG if found is None else _GPU_CONFIG)
    names, counts = _parse_steps(only), parse_counts(batches)
    serve_config = _read(path)
    output = json or run_dir() / "gpu-check.json"
    make_directory(output.parent)
    check_outputs(output, log)
    if {"bare", "service"} & set(names):
        try:
            check_card(serve_config, found)
        except WrongCard as error:
            raise typer.BadParameter(str(error)) from None
    _say(_NO_GPU if found is None else str(found))
    settings = _choose(found, counts, output_tokens, window_s, budget_s)
    results = Results(describe_machine(), found, str(path))
    check = Check(path, serve_config, settings, results, output, _say)
    try:
        with run_load_generator() as generator:
            good = check.run(names, generator)
    finally:
        results.tables = build_grids(results, _estimate_all(results, serve_config))
        results.write(output)
        _report(results, log, _render_command(path, only, batches, output_tokens))
    raise typer.Exit(0 if good else 1)


def _say(text: str) -> None:
    typer.echo(text, err=True)


def _parse_steps(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in STEPS:
            raise typer.BadParameter(f"'{name}' is none of {_ALL}")
    return [name for name in STEPS if name in names]


def _read(path: Path) -> ServeConfig:
    try:
        return read_serve_config(path)
    except ConfigError as error:
        raise typer.BadParameter(f"{path}: {error}") from None


def check_card(config: ServeConfig, found: Gpu | None) -> None:
    """Check that Ray will find the GPU that the tiers name; otherwise Ray would wait for ever.

    Raises:
        WrongCard: Ray would not find it.
    """
    here = "none (nvidia-smi is missing or fails)" if found is None else found.name
    for tier in config.app.tiers:
        wanted = tier.accelerator_type or "a GPU"
        named = tier.accelerator_type is None or wanted.split("-")[0] in here.upper()
        if tier.accelerator == "gpu" and (found is None or not named):
            raise WrongCard(wanted, here)


def _choose(
    found: Gpu | None,
    counts: Sequence[int],
    output_tokens: int,
    window_s: float | None,
    budget_s: float,
) -> Settings:
    base = _CPU if found is None else Settings()
    return Settings(
        batches=counts,
        output_tokens=output_tokens,
        prompts=base.prompts,
        warmup_s=base.warmup_s,
        window_s=window_s or base.window_s,
        start_s=base.start_s,
        budget_s=budget_s,
    )


def _report(results: Results, log: Path | None, command: str) -> None:
    """Print the results so far, however the run ended."""
    machine, grids = results.machine, results.tables
    print_report(build_console(), machine, grids)
    if log is not None:
        section = render_section(machine, command, grids, [_describe(results)])
        append_section(log, section)


def _describe(results: Results) -> str:
    return f"{_NO_GPU if results.gpu is None else results.gpu} Config: {results.config}"


def _estimate_all(results: Results, config: ServeConfig) -> dict[str, Estimate]:
    """The estimates by tier, without tiers that cannot be planned."""
    found = {}
    for tier in config.app.tiers:
        on_cpu = results.gpu is None or tier.accelerator == "cpu"
        try:
            card = None if on_cpu else find_card(tier, results.gpu.name if results.gpu else "")
            found[tier.name] = estimate(tier, card, results.rates if on_cpu else None)
        except (PlanningFailed, demo.CheckpointMissing) as failure:
            _say(f"no plan of {tier.name}: {failure}")
    return found


def _render_command(path: Path, only: str, batches: str, output_tokens: int) -> str:
    """The command for the log: the options that change the numbers, not the output files."""
    words = ["serve-app", "bench", "gpu", f"--config={path}"]
    words += [f"--only={only}"] if only != _ALL else []
    words += [f"--batches={batches}"] if batches != _BATCHES else []
    default = Settings().output_tokens
    words += [f"--output-tokens={output_tokens}"] if output_tokens != default else []
    return " ".join(words)
