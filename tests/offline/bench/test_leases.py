"""`serve-app bench leases`: the trials, and that what they time does not grow."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from serve_app.cli.main import app
from serve_app.offline.bench.lease_trials import TRIALS, find_session, give_up, hand_over, take_idle
from serve_app.offline.bench.lease_trials import take_idle_by_session as take_by_session
from serve_app.offline.bench.leases import Trial, build_grid, measure


@pytest.mark.parametrize("name", TRIALS)
def test_a_trial_takes_its_time(name: str) -> None:
    """Each of them runs at any size and tells how long one operation took."""
    trial, _ = TRIALS[name]
    measured = measure(trial, [1, 3], rounds=1)
    assert set(measured) == {1, 3}
    assert all(microseconds > 0 for microseconds in measured.values())


@pytest.mark.parametrize(
    ("trial", "small", "large"),
    [
        (take_idle, 1, 5000),
        (take_by_session, 1, 5000),
        (hand_over, 100, 10_000),
        (give_up, 100, 10_000),
        (find_session, 1, 5000),
    ],
)
def test_the_way_of_a_call_does_not_grow(trial: Trial, small: int, large: int) -> None:
    """In CPU time: a walk over all replicas or waiting calls would cost far more than this."""
    measured = measure(trial, [small, large], rounds=3)
    assert measured[large] < 10 * measured[small]


def test_the_last_column_is_the_growth() -> None:
    """The largest size that a trial ran at, as a multiple of its smallest."""
    grid = build_grid({"a": {1: 2.0, 100: 3.0}, "b": {100: 4.0, 2000: 40.0}})
    assert grid.header == (
        "operation",
        "n = 1",
        "n = 100",
        "n = 2,000",
        "largest n : smallest n",
    )
    assert grid.rows == [("a", "2.0", "3.0", "-", "1.5"), ("b", "-", "4.0", "40.0", "10.0")]


def test_the_log_gets_a_section(tmp_path: Path) -> None:
    """A log that is not there yet is made."""
    log = tmp_path / "log.md"
    arguments = ["--counts", "1,2", "--waiters", "2,3", "--rounds", "1", "--log", str(log)]
    result = CliRunner().invoke(app, ["bench", "leases", *arguments])
    assert result.exit_code == 0, result.output
    assert log.read_text().count("\n| ") == len(TRIALS) + 2


def test_a_log_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    """Before anything is timed."""
    arguments = ["bench", "leases", "--log", str(tmp_path / "missing" / "log.md")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "cannot be written" in " ".join(result.output.split())
