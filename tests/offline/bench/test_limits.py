"""`serve-app bench limits`: our counters beside a peer's."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from serve_app.cli.main import app
from serve_app.offline.bench.limits import Sample, build_grid

pytest.importorskip("limits", reason="the peer comes with the extra `bench`")


@pytest.mark.skipif(
    shutil.which("redis-server") is None, reason="Debian's package redis-server is not installed"
)
def test_the_counters_and_the_peer_run(tmp_path: Path) -> None:
    """Over a real Redis; the log gets a section with a row for each."""
    log = tmp_path / "log.md"
    few = ["--calls", "10", "--rounds", "1", "--callers", "2", "--no-owner", "--pause-ms", "0"]
    result = CliRunner().invoke(app, ["bench", "limits", *few, "--log", str(log)])
    assert result.exit_code == 0, result.output
    text = log.read_text()
    assert "| peer: limits " in text
    assert "| Redis | 2 |" in text


def test_a_row_says_whether_the_goal_is_met() -> None:
    """Both percentiles must be within their goals; the peer has none."""
    samples = {
        ("peer", 1): Sample([0.0005] * 100, 0.02),
        ("Redis", 1): Sample([0.001] * 100, 0.03),
        ("owner", 1): Sample([0.0001] * 90 + [0.0031] * 10, 0.01),
    }
    rows = build_grid(samples).rows
    assert rows[0] == ("peer", "1", "0.500", "0.500", "1.00", "0.20", "-")
    assert rows[1] == ("Redis", "1", "1.000", "1.000", "2.00", "0.30", "met")
    assert rows[2] == ("owner", "1", "0.100", "3.100", "0.20", "0.10", "missed")
