"""Gives HAProxy renewed certificates while it runs: no restart, and no connection is closed.

cli/haproxy.py starts one watcher for each HAProxy, which ends with HAProxy's supervisor. It reads
the files every few seconds instead of watching their directory: Kubernetes renews a mounted secret
by moving a symlink, certbot by another one, and a network file system reports neither.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from serve_app.cli.haproxy_admin import AdminSocket, HAProxyRefused
from serve_app.cli.tls_files import TlsFiles, TlsFileUnusable
from serve_app.config.tls import read_tls


class Watcher:
    """Compares the files with what HAProxy has, and gives it what has changed."""

    def __init__(self, files: TlsFiles, admin: AdminSocket) -> None:
        self._files = files
        self._admin = admin
        self._said = ""

    def check(self) -> None:
        """Look at the files once; a failure is said once, and tried again at the next check."""
        try:
            for copy in self._files.copies:
                text = copy.read_sources()
                if text != copy.read():
                    self._admin.replace(copy.kind, copy.path, text)
                    copy.write(text)
                    self._say(f"renewed {copy.path.name}")
        except (TlsFileUnusable, HAProxyRefused, OSError) as error:
            self._say(f"not renewed: {error}")

    def _say(self, what: str) -> None:
        if what != self._said:
            print(f"serve-app: TLS: {what}", file=sys.stderr, flush=True)
        self._said = what


def watch(supervisor: int, socket_path: str, configuration: Path) -> None:
    """Check every few seconds, until HAProxy's supervisor has ended.

    A HAProxy that has been replaced does not answer any more, while its last calls go on.
    """
    tls = read_tls(dict(os.environ))
    if tls is None:
        return
    admin = AdminSocket(socket_path)
    watcher = Watcher(TlsFiles(tls, configuration), admin)
    while os.getppid() == supervisor:
        if admin.find_owner() is not None:
            watcher.check()
        time.sleep(tls.check_s)


if __name__ == "__main__":
    watch(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3], sys.argv[4]))
