"""`serve-app bench batch-in-engine`: what lines cost clients within one engine, and no more."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from serve_app import demo
from serve_app.offline.bench.batch_beside_chat import (
    BATCH,
    BOTH,
    CHAT,
    Share,
    build_grid,
    render_share,
)
from serve_app.offline.bench.engine_clock import EngineAlone, EngineDriver, EngineLoad
from serve_app.offline.bench.engine_roofline import RooflineEngine
from serve_app.offline.bench.journal import append_section, print_report, render_section
from serve_app.offline.bench.machine import describe_machine
from serve_app.offline.bench.options import check_outputs
from serve_app.offline.bench.results import build_console
from serve_app.offline.bench.targets import COMMON_ENV, ENGINE
from serve_app.offline.simulation.hardware import fast_tier, strong_tier

AT_ONCE = "both, lines at once"


class EngineKind(StrEnum):
    """The engines: vLLM with the small demo model, and two simulated ones."""

    VLLM = "vllm"
    SMALL = "7b"
    LARGE = "72b"


def batch_in_engine(
    engine: Annotated[
        EngineKind,
        typer.Option(
            help="vllm: the real one with the demo's fast model, timed by the CPU time that it "
            "takes. 7b, 72b: simulated on an H100, and on four."
        ),
    ] = EngineKind.VLLM,
    calls_per_s: Annotated[float, typer.Option(min=0.01, help="Calls of clients.")] = 4.0,
    lines: Annotated[int, typer.Option(min=1, help="Lines that run at a time.")] = 16,
    chat_words: Annotated[int, typer.Option(min=0, help="Words more in a call's prompt.")] = 0,
    line_words: Annotated[int, typer.Option(min=0, help="Words more in a line's prompt.")] = 0,
    chat_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a call's answer.")] = 32,
    line_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a line's answer.")] = 64,
    batched_tokens: Annotated[
        int, typer.Option(min=64, help="The engine's max_num_batched_tokens.")
    ] = 2048,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of all phases.")] = 3,
    seconds: Annotated[float, typer.Option(min=1, help="Seconds of the engine's work.")] = 10.0,
    log: Annotated[
        Path | None, typer.Option(help="Log file to which a section is appended.")
    ] = None,
) -> None:
    """Compare chat, a batch and both in one engine, by a clock that other programs do not move."""
    check_outputs(log)
    machine, driver = describe_machine(), open_driver(engine, batched_tokens)
    load = EngineLoad(
        calls_per_s, lines, seconds, True, chat_tokens, line_tokens, chat_words, line_words
    )
    title = (
        f"{engine}, {lines} lines; answers of {chat_tokens} and {line_tokens} tokens, prompts "
        f"longer by {chat_words} and {line_words} words; {batched_tokens} tokens a step"
    )
    grid = build_grid(list(run_engine(driver, load, rounds)), title)
    print_report(build_console(), machine, [grid])
    if log is not None:
        command = (
            f"serve-app bench batch-in-engine --engine={engine} --calls-per-s={calls_per_s:g} "
            f"--rounds={rounds} --seconds={seconds:g}"
        )
        append_section(log, render_section(machine, command, [grid]))


def open_driver(engine: EngineKind, batched_tokens: int) -> EngineDriver:
    """The engine with its clock."""
    if engine is not EngineKind.VLLM:
        tier = fast_tier() if engine is EngineKind.SMALL else strong_tier()
        simulated = RooflineEngine(tier.timing, batched_tokens)
        return EngineDriver(simulated, simulated.clock, 1 / tier.timing.token_s)
    os.environ.update(COMMON_ENV)
    bounds = {"num_gpu_blocks_override": 1024, "max_num_batched_tokens": batched_tokens}
    return EngineDriver(EngineAlone(demo.locate("fast"), {**ENGINE, **bounds}))


def run_engine(driver: EngineDriver, load: EngineLoad, rounds: int) -> Iterator[Share]:
    """All phases in turn, and both once more with lines that begin at once."""
    driver.run(replace(load, seconds=1.0))  # The first calls do not count.
    loads = {
        CHAT: replace(load, lines=0),
        BATCH: replace(load, calls_per_s=0.0),
        BOTH: load,
        AT_ONCE: replace(load, spare=False),
    }
    for number in range(rounds):
        for kind, one in loads.items():
            written = driver.run(one)
            chat, lines = written.chat_tokens, written.line_tokens
            share = Share(kind, written.first_s, chat / one.seconds, lines / one.seconds)
            typer.echo(f"round {number + 1}: {render_share(share)}", err=True)
            yield share
