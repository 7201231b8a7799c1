"""A PostgreSQL of a test's own, from Debian's package."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

USER = "postgres"


def find_binaries() -> Path | None:
    """The directory of the server's programs; None where it is not installed."""
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return places[-1].parent if places else None


@contextmanager
def running_postgres(binaries: Path, directory: Path) -> Iterator[str]:
    """The address of a server, which ends with the block."""
    data = directory / "data"
    # The server refuses to run as root.
    as_user = ["setpriv", "--reuid", USER, "--regid", USER, "--clear-groups"]
    prefix = as_user if os.geteuid() == 0 else []
    if prefix:
        shutil.chown(directory, USER, USER)
    initdb = [str(binaries / "initdb"), "-D", str(data), "-A", "trust", "-U", USER, "--no-sync"]
    subprocess.run([*prefix, *initdb], check=True, capture_output=True, cwd=directory)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = ["-c", "fsync=off", "-c", "listen_addresses=127.0.0.1"]
    socket_dir = ["-c", f"unix_socket_directories={directory}"]
    command = [str(binaries / "postgres"), "-D", str(data), "-p", str(port)]
    server = subprocess.Popen(
        [*prefix, *command, *settings, *socket_dir],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=directory,
    )
    try:
        ready = [str(binaries / "pg_isready"), "-h", "127.0.0.1", "-p", str(port), "-t", "30"]
        while subprocess.run(ready, capture_output=True).returncode:
            assert server.poll() is None, "the server has ended"
        yield f"postgresql+psycopg://{USER}@127.0.0.1:{port}/postgres"
    finally:
        server.terminate()
        server.wait()
