"""Start each server, run every phase against it, and stop it; never two servers at once."""

from __future__ import annotations

import fcntl
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import orjson

from serve_app.offline.bench.bench_errors import RequestsFailed, ServerNotReady
from serve_app.offline.bench.clocks import Clocks, Spent, read_clocks, subtract_clocks
from serve_app.offline.bench.generator import LoadGenerator
from serve_app.offline.bench.machine import count_cores
from serve_app.offline.bench.ownership import Owned, owned
from serve_app.offline.bench.phase import Outcome, Phase
from serve_app.offline.bench.summary import Measurement, summarize
from serve_app.offline.bench.targets import HOST, MODEL_ID, Place, Target

_READY_S = 240.0
_READY_POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured of every server; `lock` is a file that is locked while a server runs."""

    phases: Sequence[Phase]
    model: Path
    lock: Path | None
    say: Callable[[str], None]
    first_warmup_s: float = 4.0


def measure(
    build: Callable[[Place], Target], plan: Plan, generator: LoadGenerator, name: str
) -> Iterator[Measurement]:
    """Runs one server through all phases, each measured when it is asked for.

    `name` is what the report calls the server. The server ends after its last phase.

    Raises:
        BenchFailed: it did not start, or a request failed.
    """
    with locked(plan.lock), tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp") as directory:
        place = Place(find_free_port(), plan.model, Path(directory))
        target = build(place)
        target.write_config()
        started_at = time.monotonic()
        with owned(target.name, target.command, target.env, place.scratch / "log") as server:
            _wait_ready(server, place.port)
            plan.say(f"{name}: ready after {time.monotonic() - started_at:.0f} s")
            phases = [replace(phase, port=place.port) for phase in plan.phases]
            yield from _measure_phases(name, server, phases, plan, generator)


def _measure_phases(
    name: str, server: Owned, phases: Sequence[Phase], plan: Plan, generator: LoadGenerator
) -> Iterator[Measurement]:
    # The first requests compile templates and open connections; they do not count.
    longest = max(phases, key=lambda phase: phase.clients)
    warmup = replace(longest, warmup_s=plan.first_warmup_s, window_s=0.1)
    _drive(name, warmup, server, generator)
    for phase in phases:
        measured = measure_phase(name, phase, server, generator)
        plan.say(f"{name}: {phase.label}: {measured.requests_per_s:.1f} requests/s")
        yield measured


def measure_phase(name: str, phase: Phase, server: Owned, generator: LoadGenerator) -> Measurement:
    """Drives one phase against a running server, and sums it up."""
    outcome, spent = _drive(name, phase, server, generator)
    return summarize(name, phase, outcome, spent, count_cores())


def _drive(
    name: str, phase: Phase, server: Owned, generator: LoadGenerator
) -> tuple[Outcome, Spent]:
    def clocks() -> Clocks:
        return read_clocks([server.pid], generator.pid)

    outcome, before, after = generator.run(phase, clocks)
    if outcome.errors:
        raise RequestsFailed(name, phase.label, outcome.errors, server.log_tail())
    return outcome, subtract_clocks(after, before)


def _wait_ready(server: Owned, port: int) -> None:
    """Wait until the server answers a chat request; a health route may report ready too early."""
    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline:
        server.check()
        if answers(port):
            return
        time.sleep(_READY_POLL_S)
    raise ServerNotReady(server.name, _READY_S, server.log_tail())


def answers(port: int) -> bool:
    """Whether the server answers a chat request with 200."""
    body = {"model": MODEL_ID, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
    connection = HTTPConnection(HOST, port, timeout=30)
    try:
        headers = {"content-type": "application/json"}
        connection.request("POST", "/v1/chat/completions", orjson.dumps(body), headers)
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def find_free_port() -> int:
    """A port on which no process listens at the moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


@contextmanager
def locked(path: Path | None) -> Iterator[None]:
    """Lock a file, on a machine where others measure too; None locks nothing."""
    if path is None:
        yield
        return
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
