"""Machines of a network that exists only for a test: namespaces of Linux, and a switch between.

A machine has network, processes, mounts, `/tmp` and `/dev/shm` of its own; files below other
directories are those of this computer. Needs root. Everything ends with the process that made it,
by the kernel and even after `kill -9`: a machine's first process dies with its parent, every
process of the machine dies with the first, and devices vanish with their namespace or with the
switch. So nothing has a name that a later run would have to clear away.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
NETWORK = "10.231.77"
CLIENT = f"{NETWORK}.1"
"""The address of the test itself."""
PREFIX = "satest"
BOOT = """
set -e
mount --make-rprivate /
mount --bind "$0" /tmp
mount -t tmpfs -o size=2g tmpfs /dev/shm
ip link set lo up
echo up
exec env --ignore-signal=CHLD sleep infinity
"""
"""With SIGCHLD ignored the kernel reaps what the machine's daemons leave behind."""


def why_not() -> str:
    """Why this computer cannot have such machines; empty if it can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [name for name in ("ip", "nsenter", "setpriv", "unshare") if not shutil.which(name)]
    if missing:
        return f"not installed: {', '.join(missing)}"
    if not Path("/dev/net/tun").exists():
        return "no /dev/net/tun"
    if ROOT.is_relative_to("/tmp"):
        return "the checkout is in /tmp, of which each machine has its own"
    tried = subprocess.run(
        ["unshare", "--net", "--pid", "--mount", "--fork", "ip", "link"], capture_output=True
    )
    return "" if tried.returncode == 0 else "unshare is not permitted"


class Wires:
    """The switch's process as its user sees it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def order(self, *words: object) -> None:
        """Let the switch do something; see `switch.py`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(*words, file=self._process.stdin, flush=True)
        assert self._process.stdout.readline() == "ok\n", f"the switch refuses: {words}"


class Machine:
    """One machine, off at first."""

    def __init__(self, name: str, number: int, wires: Wires, directory: Path) -> None:
        self.name = name
        self.address = f"{NETWORK}.{number}"
        self.directory = directory
        """What the machine sees as `/tmp`."""
        self._port = f"{PREFIX}{number}"
        self._wires = wires
        self._shell: subprocess.Popen[str] | None = None
        self._begun: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Switch the machine on, with a wire to the switch."""
        self.directory.mkdir(parents=True, exist_ok=True)
        command = [
            *("setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--pid", "--mount", "--ipc"),
            *("--uts", "--fork", "--kill-child=KILL", "--mount-proc"),
            *("sh", "-c", BOOT, str(self.directory)),
        ]
        self._shell = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._shell.stdout is not None
        assert self._shell.stdout.readline() == "up\n", f"{self.name} does not start"
        self._wires.order("plug", self._port)
        run("ip", "link", "set", self._port, "netns", str(self._first_process))
        mac = f"02:00:00:00:00:{int(self.address.rpartition('.')[2]):02x}"
        self.run("ip", "link", "set", self._port, "name", "eth0", "address", mac)
        self.run("ip", "address", "add", f"{self.address}/24", "dev", "eth0")
        self.run("ip", "link", "set", "eth0", "up")

    def stop(self) -> None:
        """What a power cut does: every process is gone at once, and no peer is told."""
        if self._shell is None:
            return
        self.cut()
        with self._shell:
            self._shell.kill()
        self._shell = None
        for process in self._begun:
            process.wait(20)
        self._begun.clear()

    @property
    def _first_process(self) -> int:
        assert self._shell is not None, f"{self.name} is off"
        pid = self._shell.pid
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text())

    def command(self, *words: str) -> list[str]:
        """The command line that runs these words on the machine."""
        return ["nsenter", "-t", str(self._first_process), "-n", "-p", "-m", "-i", "-u", *words]

    def run(self, *words: str, environment: Mapping[str, str] | None = None) -> str:
        """Run a command on the machine to its end, and return what it printed."""
        return run(*self.command(*words), environment=environment)

    def begin(self, *words: str, environment: Mapping[str, str]) -> None:
        """Start a command that ends with the machine."""
        null = subprocess.DEVNULL
        self._begun.append(
            subprocess.Popen(
                self.command(*words), env=environment, stdin=null, stdout=null, stderr=null
            )
        )

    def cut(self) -> None:
        """Let everything that the machine sends or is sent get lost, without a word to anyone."""
        self._wires.order("cut", self._port)

    def mend(self) -> None:
        """A wire as good as new."""
        self._wires.order("mend", self._port)

    def slow(self, delay_s: float, jitter_s: float) -> None:
        """Let every frame from and to the machine take this time."""
        self._wires.order("delay", self._port, delay_s, jitter_s)


def run(*words: str, environment: Mapping[str, str] | None = None) -> str:
    """Run a command to its end, and return what it printed."""
    done = subprocess.run(
        words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, f"{' '.join(words)}: {done.stdout}"
    return done.stdout


@contextmanager
def network(names: Sequence[str], directory: Path) -> Iterator[dict[str, Machine]]:
    """Machines of these names, all on, and this process beside them at `CLIENT`."""
    with ExitStack() as stack:
        command = [sys.executable, "-m", "tests.faults.switch"]
        process = stack.enter_context(
            subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        stack.callback(process.kill)
        wires = Wires(process)
        join_network(wires)
        machines = {
            name: Machine(name, number, wires, directory / name)
            for number, name in enumerate(names, start=2)
        }
        for machine in machines.values():
            stack.callback(machine.stop)
            machine.start()
        yield machines  # The machines stop before their switch.


def join_network(wires: Wires) -> None:
    """Give this process a port of the switch, in the namespace that it is in."""
    port = f"{PREFIX}1"
    wires.order("plug", port)
    run("ip", "address", "add", f"{CLIENT}/24", "dev", port)
    run("ip", "link", "set", port, "up")
