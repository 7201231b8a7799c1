"""However a run ends, what it has measured is kept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from serve_app.offline.bench.bench_errors import NothingMeasured
from serve_app.offline.bench.grids import build_report
from serve_app.offline.bench.results import collect
from serve_app.offline.bench.summary import Measurement
from tests.offline.bench.test_grids import MACHINE, OURS, PEER

FAILURE = NothingMeasured("ours", "1 client", 2.0)


def measured(then: BaseException | None = None) -> Iterator[Measurement]:
    """Two measurements, and how the run ends after them."""
    yield PEER
    yield OURS
    if then is not None:
        raise then


def targets(path: Path) -> list[str]:
    """Whose measurements the JSON file holds."""
    return [run["target"] for run in json.loads(path.read_bytes())["measurements"]]


def test_a_whole_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every measurement comes back, is printed, and is in the file."""
    runs, failure = collect(measured(), build_report, MACHINE, tmp_path / "out.json")
    assert (runs, failure) == ([PEER, OURS], None)
    assert targets(tmp_path / "out.json") == ["peer", "ours"]
    assert "ours" in capsys.readouterr().out


def test_a_failure_of_a_later_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The failure comes with what was measured before it."""
    runs, failure = collect(measured(FAILURE), build_report, MACHINE, tmp_path / "out.json")
    assert (runs, failure) == ([PEER, OURS], FAILURE)
    assert targets(tmp_path / "out.json") == ["peer", "ours"]
    assert "ours" in capsys.readouterr().out


@pytest.mark.parametrize("end", [KeyboardInterrupt(), SystemExit(143), RuntimeError("a fault")])
def test_an_interrupted_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], end: BaseException
) -> None:
    """Ctrl-C, SIGTERM and faults of ours lose nothing either."""
    with pytest.raises(type(end)):
        collect(measured(end), build_report, MACHINE, tmp_path / "out.json")
    assert targets(tmp_path / "out.json") == ["peer", "ours"]
    assert "ours" in capsys.readouterr().out


def test_nothing_was_measured(tmp_path: Path) -> None:
    """The file says so, and no table is printed."""

    def fail() -> Iterator[Measurement]:
        raise FAILURE
        yield PEER

    assert collect(fail(), build_report, MACHINE, tmp_path / "out.json") == ([], FAILURE)
    assert targets(tmp_path / "out.json") == []


def test_a_killed_run_has_its_results(tmp_path: Path) -> None:
    """Each result is in the file before the next is measured."""
    path = tmp_path / "out.json"
    seen: list[list[str]] = []

    def watched() -> Iterator[Measurement]:
        for run in measured():
            yield run
            seen.append(targets(path))

    collect(watched(), build_report, MACHINE, path)
    assert seen == [["peer"], ["peer", "ours"]]
