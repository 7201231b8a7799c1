"""The benchmark of traces runs, and prints what it has measured."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from serve_app.cli.main import app


def test_a_short_run(tmp_path: Path) -> None:
    """Every share, and a section for the log."""
    (tmp_path / "log.md").write_text("# Log\n")
    options = ["--calls", "1000", "--log", str(tmp_path / "log.md")]
    result = CliRunner().invoke(app, ["bench", "traces", *options])
    assert result.exit_code == 0, result.output
    assert "100%" in result.output
    assert "serve-app bench traces" in (tmp_path / "log.md").read_text()
