"""What `serve-app up` shows of a start: steps, seconds, and the lines of a failure."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from serve_app.cli.start_log import begin_log, find_trouble, read_end
from serve_app.cli.start_progress import StartProgress, StartTimes, find_step
from serve_app.cli.start_view import LineView, TableView, build_view
from serve_app.core.start_steps import StartStep, render_step


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def replica(pid: int | None = 7, **more: Any) -> dict[str, Any]:
    return {"state": "STARTING", "pid": pid, **more}


def serve_says(status: str = "UPDATING", message: str = "", **deployments: Any) -> dict[str, Any]:
    return {
        "llm": {
            "deployments": {
                name.replace("_", "-"): {"status": status, "message": message, "replicas": [found]}
                for name, found in deployments.items()
            }
        }
    }


def logged(*steps: StartStep, name: str = "fast") -> str:
    return "".join(f"(ServeReplica pid=1) {render_step(name, step)}\n" for step in steps)


def started(**last: float) -> tuple[StartProgress, Clock]:
    clock = Clock()
    return StartProgress(["fast", "strong"], last, clock), clock


@pytest.mark.parametrize(
    ("found", "log", "step"),
    [
        (replica(pid=None), "", StartStep.WAITING),
        (replica(), "", StartStep.IMPORTING),
        (replica(), logged(StartStep.CHECKING), StartStep.CHECKING),
        (replica(), logged(StartStep.CHECKING, StartStep.LOADING), StartStep.LOADING),
        (replica(), logged(StartStep.LOADING, name="strong"), StartStep.IMPORTING),
    ],
)
def test_the_step_of_a_replica(found: dict[str, Any], log: str, step: StartStep) -> None:
    """It waits before it has a process, then it tells itself."""
    assert find_step("fast", found, log) is step


def test_parts_move_forward_only() -> None:
    """Serve forgets messages and replicas between its updates; the display does not."""
    progress, clock = started()
    progress.take({}, "")
    assert progress.parts["fast"].step is None
    progress.take(serve_says(tier_fast=replica()), logged(StartStep.LOADING))
    progress.take(serve_says(tier_fast=replica()), "")
    assert progress.parts["fast"].step is StartStep.LOADING
    clock.now += 12
    progress.take(serve_says("HEALTHY", tier_fast=replica()), "")
    assert progress.parts["fast"].step is StartStep.READY
    assert progress.times["fast"] == 12
    assert progress.parts["strong"].step is None


def test_a_part_that_waits_says_why() -> None:
    """The reason is Serve's, and goes when the wait does."""
    progress, _ = started()
    progress.take(serve_says(message="no GPU is free", tier_fast=replica(pid=None)), "")
    assert progress.parts["fast"].why == "no GPU is free"
    progress.take(serve_says(message="still no GPU", tier_fast=replica()), "")
    assert progress.parts["fast"].why is None


def test_a_finished_start_has_the_times_of_all_parts(tmp_path: Path) -> None:
    """They are what the next start is compared with, for each config of its own."""
    progress, clock = started()
    clock.now += 3
    progress.finish()
    times = StartTimes(tmp_path / "starts.json")
    times.write("a.yaml", progress.times)
    times.write("b.yaml", {"Ray": 1.0})
    assert times.read("a.yaml") == {"Ray": 3, "fast": 3, "strong": 3, "Router": 3}
    assert times.read("b.yaml") == {"Ray": 1}
    assert times.read("c.yaml") == {}


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a.yaml": 3}', '{"a.yaml": {"Ray": "x"}}'])
def test_a_broken_file_of_times_is_no_fault(tmp_path: Path, text: str) -> None:
    """The next start overwrites it."""
    path = tmp_path / "starts.json"
    path.write_text(text)
    times = StartTimes(path)
    assert times.read("a.yaml") == {}
    times.write("a.yaml", {"Ray": 2.0})
    assert times.read("a.yaml") == {"Ray": 2}


def test_a_pipe_gets_a_line_a_step() -> None:
    """Each step once, with its second, and no control characters."""
    progress, clock = started(fast=31)
    console = Console(file=io.StringIO(), width=60)
    view = build_view(console)
    assert isinstance(view, LineView)
    with view:
        for log in ("", "", logged(StartStep.LOADING)):
            progress.take(serve_says(tier_fast=replica()), log)
            view.show(progress)
            clock.now += 2
        progress.finish()
        view.show(progress)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines() == [
        "   0 s  Ray: ready",
        "   0 s  fast: starting the process",
        "   4 s  fast: loading the weights",
        "   6 s  fast: ready (last start: 31 s)",
        "   6 s  strong: ready",
        "   6 s  Router: ready",
    ]


def test_a_terminal_gets_a_table() -> None:
    """One row a part, with the seconds of the last start."""
    progress, _ = started(fast=31)
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    with build_view(console) as view:
        assert isinstance(view, TableView)
        progress.take(serve_says(tier_fast=replica()), logged(StartStep.WARMING))
        view.show(progress)
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "warming up" in shown
    assert "(last start: 31 s)" in shown
    assert "strong" in shown
    assert isinstance(build_view(console, plain=True), LineView)


def test_a_failure_shows_the_lines_that_matter() -> None:
    """Routine lines are left out, colours too."""
    text = (
        "\x1b[36m(ServeReplica:llm:tier-fast pid=1)\x1b[0m INFO 11-30 [x.py] Loading\n"
        "\x1b[36m(ServeReplica:llm:tier-fast pid=1)\x1b[0m RuntimeError: no memory\n"
        "\x1b[36m(ServeReplica:llm:tier-fast pid=1)\x1b[0m WARNING 11-30 [y.py] deprecated\n"
    )
    assert find_trouble(text) == ["(ServeReplica:llm:tier-fast pid=1) RuntimeError: no memory"]
    assert find_trouble("INFO all is well\n") == ["INFO all is well"]
    assert find_trouble("") == []


def test_the_log_of_the_last_start_is_kept(tmp_path: Path) -> None:
    """One file back, so the logs do not grow from start to start."""
    for text in ("one", "two", "three"):
        begin_log(tmp_path).write_text(text)
    assert read_end(tmp_path / "serve.log") == "three"
    assert read_end(tmp_path / "serve.log.1") == "two"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["serve.log", "serve.log.1"]
    assert read_end(tmp_path / "none.log") == ""
