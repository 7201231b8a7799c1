"""Keeps HAProxy running under the process that Ray started for it (docs/decisions/0015).

Ray starts `haproxy.sh`, the holder, and knows HAProxy by the holder's process id. The supervisor is
the holder's child and HAProxy the supervisor's. The supervisor starts HAProxy again when HAProxy
dies, and the holder starts the supervisor again, so the holder lives on and Ray sees no failure.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

from serve_app.cli.haproxy_admin import POLL_S, AdminRelay, AdminSocket

SOCKET = "h"
STARTS_MAX = 3
"""Starts before HAProxy's failure is Ray's: the HAProxy before it may die in the first of them."""
AGAIN_S = 0.5
"""Between two attempts to replace an HAProxy that cannot be started."""
DISPLACED_S = 2.0
"""How soon another HAProxy answers after it has asked this one to stop."""


class HAProxyNotStarted(Exception):
    """HAProxy ended before it answered; HAProxy itself has said why."""

    def __init__(self, code: int | None) -> None:
        super().__init__(code)
        self.code = code

    def __str__(self) -> str:
        return "Ray has given it up" if self.code is None else f"it ended with code {self.code}"


@dataclass(frozen=True)
class Generation:
    """The files of the HAProxy that Ray started with one holder; Ray's own names stay Ray's."""

    holder: int
    written: Path
    ray_socket: Path

    @property
    def configuration(self) -> Path:
        """The amended configuration. Not Ray's path, by which Ray counts its HAProxies."""
        return self.written.with_name(f"{self.written.name}.{self.holder}.amended")

    @property
    def socket(self) -> Path:
        """HAProxy's own control socket, with a short name: a path has at most 107 bytes."""
        return self.ray_socket.with_name(f"{SOCKET}{self.holder}")

    @property
    def door(self) -> Path:
        """Where HAProxy takes the requests of those that it has replaced: the same for all."""
        return self.ray_socket.with_name("door")

    @property
    def admin(self) -> AdminSocket:
        """HAProxy's control socket, to be asked."""
        return AdminSocket(str(self.socket))

    def has_successor(self, predecessors: Sequence[int]) -> bool:
        """Whether an HAProxy of a later holder takes connections at its control socket."""
        own = {f"{SOCKET}{holder}" for holder in (self.holder, *predecessors)}
        found = self.socket.parent.glob(f"{SOCKET}[0-9]*")
        return any(AdminSocket(str(path)).is_listening() for path in found if path.name not in own)

    def remove(self) -> None:
        """Leave nothing behind."""
        self.configuration.unlink(missing_ok=True)
        self.socket.unlink(missing_ok=True)


@dataclass(frozen=True)
class Launch:
    """What Ray asked for: HAProxy's arguments, and the holders of the HAProxies before this one."""

    arguments: tuple[str, ...]
    predecessors: tuple[int, ...] = ()

    @staticmethod
    def parse(arguments: Sequence[str]) -> tuple[Path, Launch]:
        """Ray's file, and what else Ray asks for; `-x` names a socket of Ray's, which is unused.

        Raises:
            ValueError: there is no file.
        """
        values: dict[str, list[str]] = {"-f": [], "-sf": [], "-x": []}
        kept: list[str] = []
        option = kept
        for argument in arguments:
            if argument in values:
                option = values[argument]
            elif argument.startswith("-"):
                option = kept
                kept.append(argument)
            else:
                option.append(argument)
        if not values["-f"]:
            raise ValueError("no configuration is named")
        return Path(values["-f"][0]), Launch(tuple(kept), tuple(map(int, values["-sf"])))


class Watched:
    """A process whose end can be waited for, whoever its parent is."""

    def __init__(self, pid: int) -> None:
        self.descriptor = os.pidfd_open(pid)

    @property
    def has_ended(self) -> bool:
        """Whether the process has ended, or waits for its parent to notice."""
        return bool(select.select([self.descriptor], [], [], 0)[0])

    def close(self) -> None:
        """Watch no more."""
        os.close(self.descriptor)

    def kill(self) -> None:
        """End the process if it runs."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.descriptor, signal.SIGKILL)


def wait_any(processes: list[Watched]) -> None:
    """Wait until one of the processes has ended."""
    select.select([process.descriptor for process in processes], [], [])


class Supervisor:
    """One generation's HAProxy, from its start until Ray has ended or replaced it."""

    def __init__(
        self, generation: Generation, launch: Launch, binary: str, environment: Mapping[str, str]
    ) -> None:
        self._generation = generation
        self._launch = launch
        self._command = (binary, *launch.arguments, "-f", str(generation.configuration))
        self._environment = dict(environment)
        self._haproxy: subprocess.Popen[bytes] | None = None
        self._running: Watched | None = None
        self._left: list[Watched] = []
        self._is_stopping = False
        self._has_served = False
        self._holder = Watched(generation.holder)
        self._actor = Watched(read_parent(generation.holder))

    def stop_softly(self, signum: int = 0, frame: FrameType | None = None) -> None:
        """Let HAProxy finish its calls, and replace it no more: a handler of Ray's SIGUSR1."""
        self._is_stopping = True
        if self._haproxy is not None:
            with suppress(ProcessLookupError):
                self._haproxy.send_signal(signal.SIGUSR1)

    def run(self) -> None:
        """Return when the last call of this HAProxy has ended, or Ray's own process has.

        Raises:
            HAProxyNotStarted: the first start failed.
        """
        own = self._generation
        try:
            self._start(STARTS_MAX)
            self._supervise(AdminRelay(own.ray_socket, own.admin, own.holder))
        finally:
            if self._haproxy is not None and self._running is not None:
                self._running.kill()
                self._haproxy.wait()
            own.remove()

    def _supervise(self, relay: AdminRelay) -> None:
        while not self._actor.has_ended:
            self._wait()
            if self._holder.has_ended:
                # Ray must learn that it has lost this HAProxy. Clients need HAProxy until then.
                relay.close()
            if self._code is not None and self._is_displaced(relay):
                return self._wait_left()
            if self._code is not None:
                self._start_again()
        for process in self._left:
            process.kill()

    def _wait(self) -> None:
        assert self._running is not None
        holder = [] if self._holder.has_ended else [self._holder]
        wait_any([self._actor, self._running, *holder])

    def _wait_left(self) -> None:
        """Ray counts the calls of a HAProxy before this one as calls of its holder."""
        while self._left and not self._actor.has_ended:
            wait_any([self._actor, *self._left])
            self._left = [process for process in self._left if not process.has_ended]

    @property
    def _code(self) -> int | None:
        """How HAProxy ended, None if it runs."""
        return None if self._haproxy is None else self._haproxy.poll()

    def _is_displaced(self, relay: AdminRelay) -> bool:
        """Whether HAProxy ended because Ray has replaced it."""
        deadline = time.monotonic() + DISPLACED_S
        while not (self._is_stopping or relay.is_displaced):
            # A new HAProxy asks this one to stop before Ray gets its answer, long before on a busy
            # machine. This one would be started again with Routers that may have gone.
            if self._generation.has_successor(self._launch.predecessors):
                deadline = time.monotonic() + DISPLACED_S
            elif self._code != 0 or time.monotonic() > deadline:
                return False
            time.sleep(POLL_S)
        return True

    def _start_again(self) -> None:
        print(f"serve-app: HAProxy is started again; it ended with {self._code}", file=sys.stderr)
        while not (self._actor.has_ended or self._is_stopping):
            with suppress(HAProxyNotStarted):
                return self._start(1)
            time.sleep(AGAIN_S)

    def _start(self, attempts: int) -> None:
        """Raises HAProxyNotStarted."""
        for _ in range(attempts):
            self._haproxy = subprocess.Popen(
                [*self._command, *self._take_over()],
                env=self._environment,
                stdin=subprocess.DEVNULL,
            )
            if self._running is not None:
                self._running.close()
            self._running = Watched(self._haproxy.pid)
            if self._is_ready(self._haproxy.pid):
                self._has_served = True
                break
            self._running.kill()
            self._haproxy.wait()
            if self._is_given_up:
                raise HAProxyNotStarted(None)
        else:
            raise HAProxyNotStarted(self._code)
        if self._is_stopping:
            self.stop_softly()

    @property
    def _is_given_up(self) -> bool:
        """Whether nobody needs this HAProxy: Ray has ended, or has not waited for its start."""
        return self._actor.has_ended or (self._holder.has_ended and not self._has_served)

    def _take_over(self) -> Iterator[str]:
        """The arguments by which HAProxy replaces the HAProxies that answer now."""
        found = {}
        for generation in self._list_generations():
            if (pid := generation.admin.find_owner()) is not None:
                found[pid] = generation
        for pid, generation in found.items():
            if generation == self._generation:
                # The HAProxy of a supervisor that was killed; it may just have died too.
                with suppress(ProcessLookupError):
                    self._left.append(Watched(pid))
        if found:
            yield from ("-sf", *map(str, found), "-x", str(next(iter(found.values())).socket))

    def _list_generations(self) -> Iterator[Generation]:
        yield self._generation
        for holder in self._launch.predecessors:
            yield replace(self._generation, holder=holder)

    def _is_ready(self, pid: int) -> bool:
        while self._code is None and not self._is_given_up:
            if self._generation.admin.find_owner() == pid:
                return True
            time.sleep(POLL_S)
        return False


def read_parent(pid: int) -> int:
    """The id of a process's parent."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("\nPPid:")[2].split()[0])
