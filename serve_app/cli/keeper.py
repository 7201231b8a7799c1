"""The process that ends a service whose `serve-app up` was killed.

`serve-app up` holds the other end of its input, so the input ends with `serve-app up`, however it
ends. Ray's agents would wait a minute for a GCS that is dead.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from serve_app.cli.leftovers import RunDirectory


def start_keeper(directory: RunDirectory, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start the keeper of a run directory, in a session that no Ctrl-C reaches.

    `environment` must be without the mark of the directory's processes.
    """
    command = [sys.executable, "-P", "-m", "serve_app.cli.keeper", str(directory.path)]
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, start_new_session=True)


def main(path: Path) -> None:
    """Wait for the end of the input, and end what is left unless a new service has begun."""
    sys.stdin.buffer.read()
    directory = RunDirectory(path)
    if directory.lock(is_ending=True):
        directory.end_leftovers()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
