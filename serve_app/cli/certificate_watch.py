"""Gives HAProxy renewed certificates while it runs: no restart, and no connection is closed.

cli/haproxy.py starts one watcher beside each HAProxy, which ends with its HAProxy. It reads the
files every few seconds instead of watching their directory: Kubernetes renews a mounted secret by
moving a symlink, certbot by another one, and a network file system reports neither.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import time
from pathlib import Path

from serve_app.cli.tls_files import TlsCopy, TlsFiles, TlsFileUnusable
from serve_app.config.tls import read_tls

ANSWER_S = 10.0


class HAProxyRefused(Exception):
    """HAProxy did not take a command; the message is its answer."""


class AdminSocket:
    """HAProxy's own control socket, one command a connection."""

    def __init__(self, path: str) -> None:
        self._path = path

    def ask(self, command: str) -> str:
        """HAProxy's answer. Raises OSError if HAProxy does not answer."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(ANSWER_S)
            connection.connect(self._path)
            connection.sendall(f"{command}\n".encode())
            parts = []
            while part := connection.recv(65_536):
                parts.append(part)
        return b"".join(parts).decode("utf-8", "replace")

    def owner(self) -> int | None:
        """The process that answers here."""
        found = re.search(r"(?m)^Pid: (\d+)$", self.ask("show info"))
        return None if found is None else int(found[1])

    def replace(self, copy: TlsCopy, text: str) -> None:
        """Let new connections use this content. Connections that are open stay as they are.

        Raises:
            HAProxyRefused: the old content stays in use.
            OSError: HAProxy does not answer.
        """
        what = f"ssl {copy.kind} {copy.path}"
        answer = self.ask(f"set {what} <<\n{text}")
        if "transaction" not in answer.lower():
            raise HAProxyRefused(answer.strip())
        answer = self.ask(f"commit {what}")
        if "Success" not in answer:
            self.ask(f"abort {what}")
            raise HAProxyRefused(answer.strip())


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
                    self._admin.replace(copy, text)
                    copy.write(text)
                    self._say(f"renewed {copy.path.name}")
        except (TlsFileUnusable, HAProxyRefused, OSError) as error:
            self._say(f"not renewed: {error}")

    def _say(self, what: str) -> None:
        if what != self._said:
            print(f"serve-app: TLS: {what}", file=sys.stderr, flush=True)
        self._said = what


def watch(haproxy: int, socket_path: str, configuration: Path) -> None:
    """Check every few seconds, until HAProxy has ended or another process has its socket."""
    tls = read_tls(dict(os.environ))
    if tls is None:
        return
    admin = AdminSocket(socket_path)
    watcher = Watcher(TlsFiles(tls, configuration), admin)
    was_owner = False
    while os.getppid() == haproxy:
        owner = _find_owner(admin)
        was_owner = was_owner or owner == haproxy
        if owner == haproxy:
            watcher.check()
        elif owner is not None and was_owner:
            return
        time.sleep(tls.check_s)


def _find_owner(admin: AdminSocket) -> int | None:
    try:
        return admin.owner()
    except OSError:
        return None


if __name__ == "__main__":
    watch(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3], sys.argv[4]))
