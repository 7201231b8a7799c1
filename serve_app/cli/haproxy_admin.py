"""HAProxy's control socket: commands to it, and the socket that Ray asks in its place."""

from __future__ import annotations

import errno
import os
import re
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingUnixStreamServer

ANSWER_S = 10.0
RETRY_S = 10.0
"""How long a question of Ray waits for a new HAProxy. Ray takes every answer, an empty one too, for
a sign of health, and gives up after 5 s without one."""
POLL_S = 0.02
_PID = re.compile(r"(?m)^Pid: (\d+)$")


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
        if not parts:
            raise ConnectionResetError("HAProxy ended before it answered")
        return b"".join(parts).decode("utf-8", "replace")

    def is_listening(self) -> bool:
        """Whether a process takes connections here, though it may not answer yet."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.setblocking(False)
            # EAGAIN means that too many connections wait to be taken.
            return connection.connect_ex(self._path) in (0, errno.EAGAIN)

    def find_owner(self) -> int | None:
        """The process that answers here, None if none does."""
        try:
            found = _PID.search(self.ask("show info"))
        except OSError:
            return None
        return None if found is None else int(found[1])

    def replace(self, kind: str, path: Path, text: str) -> None:
        """Let new connections use this content of a file; open connections stay as they are.

        Raises:
            HAProxyRefused: the old content stays in use.
            OSError: HAProxy does not answer.
        """
        what = f"ssl {kind} {path}"
        answer = self.ask(f"set {what} <<\n{text}")
        if "transaction" not in answer.lower():
            raise HAProxyRefused(answer.strip())
        answer = self.ask(f"commit {what}")
        if "Success" not in answer:
            self.ask(f"abort {what}")
            raise HAProxyRefused(answer.strip())


class _Handler(StreamRequestHandler):
    """One command of Ray."""

    server: AdminRelay
    timeout = ANSWER_S

    def handle(self) -> None:
        with suppress(OSError):
            command = self.rfile.readline(65_536).decode("utf-8", "replace").strip()
            self.wfile.write(self.server.answer(command).encode())


class AdminRelay(ThreadingUnixStreamServer):
    """Answers at the path that Ray knows with what HAProxy answers at its own path.

    Ray compares the process id in an answer with the id of the process that it has started. The
    relay therefore gives the id of that process, `known_pid`, in place of HAProxy's.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, path: Path, haproxy: AdminSocket, known_pid: int) -> None:
        self._path = path
        self._haproxy = haproxy
        self._known_pid = known_pid
        begun = path.with_name(f"r{known_pid}")
        begun.unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            super().__init__(str(begun), _Handler)
        finally:
            os.umask(before)
        self._inode = begun.stat().st_ino
        # In one step, as HAProxy does it: somebody answers at every moment.
        begun.replace(path)
        threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 0.5}, daemon=True
        ).start()

    @property
    def is_displaced(self) -> bool:
        """Whether another process answers at the path by now."""
        try:
            return self._path.stat().st_ino != self._inode
        except FileNotFoundError:
            return True

    def answer(self, command: str) -> str:
        """HAProxy's answer; one that is being started again is waited for.

        Raises:
            OSError: no answer comes.
        """
        deadline = time.monotonic() + RETRY_S
        while True:
            try:
                answer = self._haproxy.ask(command)
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(POLL_S)
            else:
                return _PID.sub(f"Pid: {self._known_pid}", answer)

    def close(self) -> None:
        """Answer no more."""
        self.shutdown()
        self.server_close()
