"""What `serve-app up` says of TLS before it starts anything."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from serve_app.cli.main import app
from serve_app.cli.up import _banner
from serve_app.config.reader import RUN_DIR_VARIABLE, read_serve_config
from serve_app.config.tls import CERTIFICATE, KEY

PROD = Path(__file__).parents[2] / "configs" / "prod.yaml"
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


def test_the_banner_names_the_pages_that_are_on() -> None:
    """A person who has just started the service finds the playground; prod.yaml has no pages."""
    url = "http://127.0.0.1:8000"
    local = _banner(url, read_serve_config(LOCAL))
    assert f"Playground: {url}/playground\n" in local
    assert f"Dashboard:  {url}/dashboard\n" in local
    assert "/playground" not in _banner(url, read_serve_config(PROD))
