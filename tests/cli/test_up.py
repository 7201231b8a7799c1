"""What `serve-app up` says of TLS before it starts anything."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from serve_app.cli.main import app
from serve_app.config.reader import RUN_DIR_VARIABLE
from serve_app.config.tls import CERTIFICATE, KEY

LOCAL = Path(__file__).parents[2] / "configs" / "local.yaml"


@pytest.mark.parametrize(
    ("options", "given", "said"),
    [
        (["--no-haproxy"], {CERTIFICATE: "/c"}, "only HAProxy serves TLS"),
        ([], {KEY: "/k"}, f"{KEY} is set, but not {CERTIFICATE}"),
        ([], {"SERVE_APP_TLS_CERTFICATE": "/c"}, "is none of"),
    ],
)
def test_a_service_without_the_tls_that_is_asked_for_is_not_started(
    tmp_path: Path, options: list[str], given: dict[str, str], said: str
) -> None:
    """One line says why, and no process is left."""
    environment = {RUN_DIR_VARIABLE: str(tmp_path / "run"), **given}
    result = CliRunner().invoke(app, ["up", str(LOCAL), *options], env=environment)
    assert result.exit_code == 1
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()
