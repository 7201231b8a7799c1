"""`serve-app bench clients`: three clients read the same answers."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from serve_app.cli.main import app
from serve_app.offline.bench.clients import build_grid


def test_each_client_reads_whole_answers(tmp_path: Path) -> None:
    """The server and all clients run, and the log gets a section with a row for each."""
    log = tmp_path / "log.md"
    arguments = ["bench", "clients", "--calls", "10", "--rounds", "1", "--log", str(log)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    text = log.read_text()
    assert [name for name in ("this service", "aiohttp", "httpx") if f"| {name} |" in text] == [
        "this service",
        "aiohttp",
        "httpx",
    ]


def test_the_ratio_is_to_ours() -> None:
    """The first row is the peer of the others."""
    grid = build_grid({"this service": 0.5, "other": 1.5}, 16)
    assert grid.rows == [("this service", "0.50", "1.0"), ("other", "1.50", "3.0")]
