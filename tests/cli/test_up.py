"""What `serve-app up` says before it starts anything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from serve_app.cli.leftovers import RunDirectory
from serve_app.cli.main import app
from serve_app.cli.up import _banner
from serve_app.config.environment import socket_dir
from serve_app.config.reader import RUN_DIR_VARIABLE, process_environment, read_serve_config
from serve_app.config.tls import CERTIFICATE, KEY

ROOT = Path(__file__).parents[2]
PROD = ROOT / "configs" / "prod.yaml"
LOCAL = ROOT / "configs" / "local.yaml"


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


def test_a_run_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """One line says which; nothing is started, and no directory for sockets is left."""
    blocked = tmp_path / "file"
    blocked.touch()
    run_dir = blocked / "run"
    result = CliRunner().invoke(app, ["up", str(LOCAL)], env={RUN_DIR_VARIABLE: str(run_dir)})
    assert result.exit_code == 1
    assert result.stderr.startswith("The service did not start: ")
    assert len(result.stderr.splitlines()) == 1
    assert not socket_dir(run_dir).exists()


def test_a_full_disk_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    """The directory for sockets goes too; in a process of its own, which ends its descendants."""
    (tmp_path / "serve.yaml").symlink_to("/dev/full")
    command = [sys.executable, "-m", "serve_app.cli.main", "up", str(LOCAL)]
    variables = {RUN_DIR_VARIABLE: str(tmp_path), "PYTHONPATH": str(ROOT)}
    environment = {**process_environment(), **variables}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    said = f"The service did not start: {tmp_path}: No space left on device\n"
    assert (result.returncode, result.stderr) == (1, said)
    assert not socket_dir(tmp_path).exists()


def test_a_second_service_of_a_run_directory_is_not_started(tmp_path: Path) -> None:
    """The first one holds a lock, which ends with it."""
    first = RunDirectory(tmp_path)
    assert first.lock()
    result = CliRunner().invoke(app, ["up", str(LOCAL)], env={RUN_DIR_VARIABLE: str(tmp_path)})
    assert (result.exit_code, result.stdout) == (
        1,
        "A service runs already; `serve-app down` ends it.\n",
    )


def test_the_banner_names_the_pages_that_are_on() -> None:
    """A person who has just started the service finds the playground; prod.yaml has no pages."""
    url = "http://127.0.0.1:8000"
    local = _banner(url, read_serve_config(LOCAL))
    assert f"Playground: {url}/playground\n" in local
    assert f"Dashboard:  {url}/dashboard\n" in local
    assert "/playground" not in _banner(url, read_serve_config(PROD))
