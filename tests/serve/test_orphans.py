"""What is left of a service whose parts are killed: after ten seconds nothing.

Each test starts a service of its own, tensor-parallel on the CPU, because its engine has the most
processes.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

from serve_app.cli import processes
from serve_app.cli.leftovers import SESSIONS_KEPT, RunDirectory
from serve_app.config.environment import socket_dir
from serve_app.config.reader import RUN_DIR_VARIABLE
from serve_app.replica.shared_files import SHARED_MEMORY, find_mapped
from tests.serve.service import ROOT, START_S, free_port, wait_for

pytestmark = pytest.mark.faults

GONE_S = 10.0
REPLACED_S = 240.0
ENGINE = "VLLM::"


class Killed:
    """A service that a test kills part of."""

    def __init__(self, config: Path, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.port = free_port()
        environment = {**os.environ, RUN_DIR_VARIABLE: str(run_dir), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "serve_app.cli.main", "up", str(config)]
        self.up = psutil.Popen(
            [*command, "--port", str(self.port)], env=environment, start_new_session=True
        )

    def wait_ready(self) -> None:
        wait_for(self._is_ready, timeout_s=START_S, what="the service is ready")

    def _is_ready(self) -> bool:
        assert processes.is_alive(self.up), "`serve-app up` has ended"
        try:
            url = f"http://127.0.0.1:{self.port}/ready"
            return httpx.get(url, timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    def find(self, *words: str) -> list[psutil.Process]:
        """The living processes of the service whose command line holds one of the words."""
        found = RunDirectory(self.run_dir).find_processes()
        return [process for process in found if any(word in title(process) for word in words)]

    def left(self) -> list[str]:
        """The command lines of what still runs, `serve-app up` included."""
        found = [
            process for process in RunDirectory(self.run_dir).find_processes() if is_living(process)
        ]
        return [title(process) for process in (*found, self.up) if is_living(process)]

    def end(self) -> None:
        """End it, whatever a test has left."""
        if is_living(self.up):
            self.up.send_signal(signal.SIGTERM)
        self.up.wait(60)
        processes.end(RunDirectory(self.run_dir).find_processes(), grace_s=1)


def title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def is_living(process: psutil.Process) -> bool:
    return processes.is_alive(process)


def unused_files() -> set[str]:
    """The files in shared memory that no process maps."""
    mapped = {path.name for path in find_mapped(psutil.pids())}
    return {path.name for path in SHARED_MEMORY.iterdir() if path.is_file()} - mapped


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tensor-parallel tier of `local-tp2.yaml` alone."""
    document = yaml.safe_load((ROOT / "configs" / "local-tp2.yaml").read_text())
    [application] = document["applications"]
    application["args"]["tiers"] = application["args"]["tiers"][1:]
    [router] = application["deployments"]
    del router["user_config"]["routing"]
    path = tmp_path_factory.mktemp("config") / "serve.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all tests: each start meets what the test before has left."""
    return tmp_path_factory.mktemp("run") / "service"


@pytest.fixture
def service(config: Path, run_dir: Path) -> Iterator[Killed]:
    killed = Killed(config, run_dir)
    yield killed
    killed.end()


def assert_gone(service: Killed, before: set[str]) -> None:
    """No process within ten seconds; no file after the next start has looked."""
    wait_for(lambda: not service.left(), timeout_s=GONE_S, what=f"gone: {service.left()}")
    directory = RunDirectory(service.run_dir)
    assert directory.lock_when_ended()
    assert directory.end_leftovers() == 0
    directory.prune_sessions()
    directory.release()
    assert unused_files() <= before
    assert not socket_dir(service.run_dir).exists()
    noted = (service.run_dir / "sessions").read_text().splitlines()
    assert len(noted) <= SESSIONS_KEPT


Fault = Callable[[Killed], object]

FAULTS: dict[str, Fault] = {
    "up": lambda service: service.up.kill(),
    "serve run": lambda service: service.find("/serve run")[0].kill(),
    "raylet": lambda service: service.find("/raylet/raylet ")[0].kill(),
    "gcs": lambda service: service.find("/gcs/gcs_server ")[0].kill(),
}


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_nothing_outlives_what_it_needs(service: Killed, fault: str) -> None:
    """After kill -9, and the next test's service starts."""
    before = unused_files()
    service.wait_ready()
    FAULTS[fault](service)
    assert_gone(service, before)


@pytest.mark.parametrize("after_s", [None, 1.0, 8.0])
def test_nothing_outlives_an_impatient_user(service: Killed, after_s: float | None) -> None:
    """Ctrl-C twice, when the service is ready or while it starts."""
    before = unused_files()
    if after_s is None:
        service.wait_ready()
    else:
        time.sleep(after_s)  # the moment in its start
    for _ in range(2):
        os.killpg(service.up.pid, signal.SIGINT)
        time.sleep(0.3)
    assert_gone(service, before)


def test_no_part_leaves_its_own_parts(service: Killed) -> None:
    """Engine, worker, replica, Router, controller, proxy: kill -9 of each in one service."""
    before = unused_files()
    service.wait_ready()
    for word in ("ServeController", "ServeReplica:llm:Router", "ProxyActor"):
        for process in service.find(f"ray::{word}"):
            _kill_with_parts(process)
    for word in ("VLLM::Worker", "VLLM::EngineCore", "ray::ServeReplica:llm:tier-"):
        wait_for(
            lambda: len(service.find("VLLM::Worker")) == 2,
            timeout_s=REPLACED_S,
            what="the engine is replaced",
        )
        service.wait_ready()
        _kill_with_parts(service.find(word)[0])
    for process in service.find("haproxy.cfg"):
        _kill_with_parts(process)
    service.up.send_signal(signal.SIGTERM)
    service.up.wait(60)
    assert_gone(service, before)


def _kill_with_parts(process: psutil.Process) -> None:
    """One that has ended with a part that was killed before is no part any more."""
    parts = [process]
    with suppress(psutil.NoSuchProcess):
        parts += process.children(recursive=True)
        process.kill()
    wait_for(
        lambda: not any(map(is_living, parts)),
        timeout_s=GONE_S,
        what=f"gone: {[title(part) for part in parts]}",
    )
