"""The benchmark of the audit log runs, and prints what it has measured."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from serve_app.cli.main import app


def test_a_short_run(tmp_path: Path) -> None:
    """Both kinds of records, and a section for the log."""
    (tmp_path / "log.md").write_text("# Log\n")
    options = ["--records", "1000", "--directory", str(tmp_path), "--log", str(tmp_path / "log.md")]
    result = CliRunner().invoke(app, ["bench", "audit", *options])
    assert result.exit_code == 0, result.output
    assert "prompt and answer" in result.output
    assert "serve-app bench audit" in (tmp_path / "log.md").read_text()
