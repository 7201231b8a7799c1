"""Start each target, run every phase against it, and stop it; never two targets at once."""

from __future__ import annotations

import fcntl
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import orjson

from serve_app.offline.bench.bench_errors import (
    BenchFailed,
    GeneratorFailed,
    RequestsFailed,
    ServerNotReady,
)
from serve_app.offline.bench.clocks import Clocks, Spent, read_clocks, subtract_clocks
from serve_app.offline.bench.generator import LoadGenerator
from serve_app.offline.bench.machine import count_cores
from serve_app.offline.bench.ownership import Owned, owned
from serve_app.offline.bench.peers import install
from serve_app.offline.bench.phase import Outcome, Phase
from serve_app.offline.bench.stages import time_stages, wait_for_lines
from serve_app.offline.bench.summary import Measurement, summarize
from serve_app.offline.bench.targets import HOST, Builder, Place, Target

_READY_S = 240.0
_READY_POLL_S = 0.5
_SERIALS = 1_000_000
"""The numbers of requests that each phase of a server has for itself."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured of every target.

    `lock` is a file that is locked while a target runs. `cores` are those of the servers, all if it
    is empty. With `stages` this service notes where the time of each call goes.
    """

    phases: Sequence[Phase]
    model: Path
    lock: Path | None
    say: Callable[[str], None]
    first_warmup_s: float = 4.0
    cores: Sequence[int] = ()
    stages: bool = False


def measure_rounds(
    builders: Mapping[str, Builder],
    plan: Plan,
    generator: LoadGenerator,
    rounds: int,
    failures: list[BenchFailed],
) -> Iterator[Measurement]:
    """All targets in turn, again and again, so that a drift of the machine meets all alike.

    A target that fails is left out from then on, and its failure is added to `failures`.

    Raises:
        GeneratorFailed: nothing can be measured any more.
    """
    left = dict(builders)
    for number in range(1, rounds + 1):
        for name, build in list(left.items()):
            try:
                for run in measure(build, plan, generator, name):
                    yield replace(run, round=number)
            except GeneratorFailed:
                raise
            except BenchFailed as failure:
                del left[name]
                failures.append(failure)
                plan.say(f"{name}: left out from round {number} on. {failure}")


def measure(
    build: Callable[[Place], Target], plan: Plan, generator: LoadGenerator, name: str
) -> Iterator[Measurement]:
    """Runs one target through all phases, each measured when it is asked for.

    `name` is what the report calls the target. Its servers end after the last phase.

    Raises:
        BenchFailed: it did not start, or a request failed.
    """
    with locked(plan.lock), tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp") as directory:
        port, engine_port, metrics_port = (find_free_port() for _ in range(3))
        scratch = Path(directory)
        place = Place(port, plan.model, scratch, engine_port, metrics_port, plan.stages)
        target = build(place)
        if target.requirement is not None:
            install(target.requirement)
        started_at = time.monotonic()
        with ExitStack() as running:
            servers = _start(target, place, plan, running)
            plan.say(f"{name}: ready after {time.monotonic() - started_at:.0f} s")
            phases = number_phases(plan.phases, place.port, target.model)
            for phase in _warm_up(phases, plan):
                _drive(name, phase, servers, generator)
            for phase in phases:
                measured = _measure_phase(name, phase, servers, generator, place)
                plan.say(f"{name}: {phase.label}: {measured.requests_per_s:.1f} requests/s")
                yield measured


def number_phases(phases: Sequence[Phase], port: int, model: str) -> list[Phase]:
    """The phases for one target, each with numbers of its own for its requests."""
    return [
        replace(phase, port=port, model=model, first_serial=index * _SERIALS)
        for index, phase in enumerate(phases, start=1)
    ]


def _warm_up(phases: Sequence[Phase], plan: Plan) -> list[Phase]:
    """The first requests compile templates and open connections; they do not count."""
    longest = max(phases, key=lambda phase: phase.clients)
    return [replace(longest, warmup_s=plan.first_warmup_s, window_s=0.1, first_serial=0)]


def _start(target: Target, place: Place, plan: Plan, running: ExitStack) -> list[Owned]:
    """The server of a target, first, and the engine behind it if it has one.

    Raises:
        BenchFailed: one of them did not start.
    """
    engines = []
    if target.engine is not None:
        behind = replace(place, port=place.engine_port)
        engines = _start(target.engine, behind, plan, running)
    target.write_config()
    log = place.scratch / f"{target.name}.log"
    server = running.enter_context(
        owned(target.name, target.command, target.env, log, cores=plan.cores)
    )
    wait_ready(server, place.port, target.model)
    return [server, *engines]


def measure_phase(name: str, phase: Phase, server: Owned, generator: LoadGenerator) -> Measurement:
    """Drives one phase against a running server, and sums it up."""
    outcome, spent = _drive(name, phase, [server], generator)
    return summarize(name, phase, outcome, spent, count_cores())


def _measure_phase(
    name: str, phase: Phase, servers: Sequence[Owned], generator: LoadGenerator, place: Place
) -> Measurement:
    """The same, with the stages of the calls where they were noted."""
    outcome, spent = _drive(name, phase, servers, generator)
    measured = summarize(name, phase, outcome, spent, count_cores())
    if not place.stages or not name.startswith("ours"):
        return measured
    lines = wait_for_lines(place.scratch, outcome.request_ids)
    return replace(measured, stages=time_stages(outcome, lines, stream=phase.stream))


def _drive(
    name: str, phase: Phase, servers: Sequence[Owned], generator: LoadGenerator
) -> tuple[Outcome, Spent]:
    def clocks() -> Clocks:
        return read_clocks([server.pid for server in servers], generator.pid)

    outcome, before, after = generator.run(phase, clocks)
    if outcome.errors:
        raise RequestsFailed(name, phase.label, outcome.errors, servers[0].log_tail())
    return outcome, subtract_clocks(after, before)


def wait_ready(server: Owned, port: int, model: str) -> None:
    """Wait until the server answers a chat request; a health route may report ready too early."""
    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline:
        server.check()
        if answers(port, model):
            return
        time.sleep(_READY_POLL_S)
    raise ServerNotReady(server.name, _READY_S, server.log_tail())


def answers(port: int, model: str) -> bool:
    """Whether the server answers a chat request for the model with 200."""
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
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
