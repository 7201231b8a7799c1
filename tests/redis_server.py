"""A real Redis for tests: Debian's `redis-server` on a free port, with a directory of its own."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

START_S = 20.0


@contextmanager
def run_redis(directory: Path, *options: str, port: int | None = None) -> Iterator[str]:
    """A Redis whose data live in `directory`; yields its URL, and ends the process at the end.

    Skips the test where the program is not installed.
    """
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("Debian's package redis-server is not installed")
    port = port or free_port()
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory)]
    with (directory / "redis.log").open("ab") as log:
        process = subprocess.Popen([*command, *options], stdout=log, stderr=log)
    try:
        wait_for_answer(port, process)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait(timeout=START_S)


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[str]:
    """The URL of an empty Redis that keeps nothing on disk."""
    with run_redis(tmp_path, "--save", "", "--appendonly", "no") as url:
        yield url


def free_port() -> int:
    """A port on which nothing listens; not Redis' own 6379, which is Ray's."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for_answer(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until Redis answers a PING."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert process.poll() is None, "redis-server ended at its start"
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                if connection.recv(64).startswith((b"+PONG", b"-NOAUTH")):
                    return
        except OSError:
            pass
        time.sleep(0.02)
    raise AssertionError("redis-server does not answer")
