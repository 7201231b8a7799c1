"""The machines of `network.py`: their wires, and that nothing of them outlives the test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.faults.network import CLIENT, PREFIX, ROOT, Machine, network, why_not

pytestmark = [
    pytest.mark.serve,
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "it can be had"),
]

ECHO_PORT = 5000
ECHO = f"""
import socket
with socket.create_server(("", {ECHO_PORT})) as server:
    while True:
        with server.accept()[0] as connection:
            while data := connection.recv(65536):
                connection.sendall(data)
"""
ASK = """
import socket, sys, time
began = time.monotonic()
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 3) as connection:
    connection.sendall(b"x")
    connection.recv(1)
print(time.monotonic() - began)
"""
LOST = r"timed out|No route"
HOLD = """
import sys, time
from pathlib import Path
from tests.faults.network import network
with network(["a", "b"], Path(sys.argv[1])) as machines:
    print("up", flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Machine]]:
    """Two machines, of which `server` echoes."""
    with network(["server", "client"], tmp_path_factory.mktemp("network")) as found:
        serve(found["server"])
        yield found


def serve(machine: Machine) -> None:
    machine.begin(sys.executable, "-c", ECHO, environment=dict(os.environ))
    time.sleep(0.5)


def round_trip_s(machines: dict[str, Machine]) -> float:
    """The seconds of a connection and an echo between the machines.

    Raises:
        AssertionError: nothing came back.
    """
    address = machines["server"].address
    return float(machines["client"].run(sys.executable, "-c", ASK, address, str(ECHO_PORT)))


def test_nothing_outlives_a_killed_test(tmp_path: Path) -> None:
    """After `kill -9` of the process that made them, no process and no device is left."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        below = psutil.Process(holder.pid).children(recursive=True)
        assert len(below) >= 5
        holder.send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs(below, timeout=10)
    assert not alive
    devices = Path("/sys/class/net")
    assert not [path.name for path in devices.iterdir() if path.name.startswith(PREFIX)]


def test_a_machine_is_alone_with_its_processes(machines: dict[str, Machine]) -> None:
    """Processes, /tmp and addresses are its own."""
    server = machines["server"]
    server.run("touch", "/tmp/mine")
    assert (server.directory / "mine").exists()
    assert server.run("sh", "-c", "ls /proc | grep -c '^[0-9]*$'") < "9"
    assert server.address in server.run("ip", "address")
    assert CLIENT not in server.run("ip", "address")


def test_a_cut_wire_loses_everything_in_silence(machines: dict[str, Machine]) -> None:
    """A connection attempt times out; after the repair it succeeds."""
    round_trip_s(machines)
    machines["client"].cut()
    with pytest.raises(AssertionError, match=LOST):
        round_trip_s(machines)
    machines["client"].mend()
    round_trip_s(machines)


def test_a_slow_wire_takes_its_time(machines: dict[str, Machine]) -> None:
    """Connection and echo are two round trips, and each passes the wire twice."""
    machines["server"].slow(0.05, 0.01)
    assert round_trip_s(machines) > 4 * 0.04
    machines["server"].mend()


def test_a_stopped_machine_comes_back_empty(machines: dict[str, Machine]) -> None:
    """Its processes are gone, its address is the same."""
    server = machines["server"]
    server.stop()
    with pytest.raises(AssertionError, match=LOST):
        round_trip_s(machines)
    server.start()
    with pytest.raises(AssertionError, match="refused"):
        round_trip_s(machines)
    serve(server)
    round_trip_s(machines)
