"""Run the service with a number of simulated replicas and Routers, and measure the cost of a
call."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import orjson

from serve_app.config.environment import local_environment, ray_environment, socket_dir
from serve_app.offline.bench.bench_errors import ServerNotReady
from serve_app.offline.bench.clocks import Part, Spent, read_clocks, subtract_clocks
from serve_app.offline.bench.generator import LoadGenerator
from serve_app.offline.bench.ownership import Owned, owned
from serve_app.offline.bench.phase import Phase
from serve_app.offline.bench.runner import find_free_port, locked, measure_phase
from serve_app.offline.bench.simulated import COUNTS_PATH, LOOPBACK, SimulationOptions
from serve_app.offline.bench.summary import Measurement
from serve_app.offline.bench.targets import HOST, MODEL_ID, Target, build_serve_run

IMPORT_PATH = "serve_app.cli.simulated_app:build"
ENGINE = "engine"
SERVICE = "service"

_READY_S = 420.0
_POLL_S = 1.0
_LEFTOVERS_S = 5.0
_DASHBOARD = ("127.0.0.1", 8265)
"""Ray's default."""
_AUTH_TOKEN = Path.home() / ".ray" / "auth_token"
"""Ray's default path. Ray requires the token if the file exists on this machine."""


@dataclass(frozen=True, slots=True)
class Size:
    """How many processes serve."""

    replicas: int
    routers: int

    @property
    def label(self) -> str:
        """How reports name the size."""
        replicas = "1 replica" if self.replicas == 1 else f"{self.replicas} replicas"
        routers = "1 Router" if self.routers == 1 else f"{self.routers} Routers"
        return f"{replicas}, {routers}"


def parse_size(text: str) -> Size:
    """Parse a size such as `8x2`: replicas, then Routers.

    Raises:
        ValueError: the text is not such a pair.
    """
    found = re.fullmatch(r"([1-9]\d{0,3})x([1-9]\d{0,3})", text.strip())
    if found is None:
        raise ValueError(f"'{text}' is not a size; write REPLICASxROUTERS, for example 8x2")
    return Size(int(found[1]), int(found[2]))


@dataclass(frozen=True, slots=True)
class ReplicaPlan:
    """The measurements of every size. `leases` is this part of the Routers' config."""

    phase: Phase
    pace_s: float
    leases: Mapping[str, float]
    haproxy: bool
    lock: Path | None
    say: Callable[[str], None]
    idle_s: float = 5.0


@dataclass(frozen=True, slots=True)
class SizeResult:
    """One size: the engine alone before and after, the service, and what the service does idle.

    `idle_ms_per_s` is CPU milliseconds a second by part, without a call.
    """

    size: Size
    engine: Measurement
    service: Measurement
    engine_again: Measurement
    idle_ms_per_s: Mapping[Part, float]
    lease_calls: int
    answered: int

    @property
    def lease_ratio(self) -> float:
        """Requests to Ray for a place, per call."""
        return self.lease_calls / self.answered if self.answered else 0.0

    def call_cpu_ms(self, part: Part) -> float:
        """CPU milliseconds a call beyond what the part spends without any."""
        return self._beyond_idle(self.service, part)

    @property
    def engine_cpu_ms(self) -> float:
        """The same for a replica whose engine is asked directly."""
        runs = (self.engine, self.engine_again)
        return fmean(self._beyond_idle(run, Part.SERVER) for run in runs)

    def _beyond_idle(self, run: Measurement, part: Part) -> float:
        idle = self.idle_ms_per_s.get(part, 0.0) / run.requests_per_s
        return max(0.0, run.cpu_ms.get(part, 0.0) - idle)

    def engine_first_byte_ms(self, key: Literal["ttft_p50_ms", "ttft_p99_ms"]) -> float:
        """The first byte of the engine asked directly, in ms: the mean of its two runs."""
        return fmean(getattr(run, key) or 0.0 for run in (self.engine, self.engine_again))


def run_size(size: Size, plan: ReplicaPlan, generator: LoadGenerator) -> SizeResult:
    """Start the service in one size and measure it.

    Raises:
        BenchFailed: the service did not start, or a request failed.
    """
    with locked(plan.lock), _scratch() as scratch:
        port = find_free_port()
        target = build_target(size, plan, port, scratch)
        target.write_config()
        started_at = time.monotonic()
        log = scratch / "log"
        with owned(target.name, target.command, target.env, log, _LEFTOVERS_S) as server:
            engines = _wait_ready(server, size, port, scratch / "engines")
            plan.say(f"{size.label}: ready after {time.monotonic() - started_at:.0f} s")
            return _measure(size, plan, server, _Ports(port, engines), generator)


@dataclass(frozen=True, slots=True)
class _Ports:
    service: int
    engines: Sequence[int]


@contextmanager
def _scratch() -> Iterator[Path]:
    # Short, because Ray keeps Unix sockets below it.
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp") as name:
        directory = Path(name)
        (directory / "engines").mkdir()
        sockets = socket_dir(directory / "run")
        sockets.mkdir(mode=0o700)
        try:
            yield directory
        finally:
            shutil.rmtree(sockets, ignore_errors=True)


def build_target(size: Size, plan: ReplicaPlan, port: int, scratch: Path) -> Target:
    """The service in one size, as a command with its config and its environment."""
    options = SimulationOptions(plan.pace_s, str(scratch / "engines"))
    tier = {
        "name": "fast",
        "model_id": MODEL_ID,
        "accelerator": "cpu",
        "engine": options.as_engine(),
        "placement": {"cpus_per_worker": 0.0, "cpus_per_server": 0.0},
        "replicas": {"min": size.replicas, "max": size.replicas},
    }
    router = {"cpus": 0.0, "replicas": {"min": size.routers, "max": size.routers}}
    args = {"tiers": [tier], "router": router, "runtime": {"leases": dict(plan.leases)}}
    env = {
        **local_environment(scratch / "run"),
        **ray_environment(haproxy=plan.haproxy),
        "RAY_TMPDIR": str(scratch),
        # Ray starts workers with a niceness of 15: every other process would have priority.
        "RAY_worker_niceness": "0",
    }
    return build_serve_run(size.label, port, scratch, env, IMPORT_PATH, args)


def _measure(
    size: Size, plan: ReplicaPlan, server: Owned, ports: _Ports, generator: LoadGenerator
) -> SizeResult:
    def drive(name: str, port: int, **changes: float) -> Measurement:
        phase = replace(plan.phase, port=port, **changes)  # type: ignore[arg-type]  # seconds only
        return measure_phase(name, phase, server, generator)

    # The first calls open connections and ask every replica for its first place.
    drive(SERVICE, ports.service, warmup_s=3.0, window_s=1.0)
    idle = _measure_idle(server, generator, plan.idle_s)
    before = drive(ENGINE, ports.engines[0])
    counted = read_counts(ports.engines)
    service = drive(SERVICE, ports.service)
    leases, answered = (
        after - then for after, then in zip(read_counts(ports.engines), counted, strict=True)
    )
    plan.say(f"{size.label}: {service.requests_per_s:.1f} requests/s")
    again = drive(ENGINE, ports.engines[0])
    per_s = {part: 1000 * spent_s / plan.idle_s for part, spent_s in idle.parts.items()}
    return SizeResult(size, before, service, again, per_s, leases, answered)


def _measure_idle(server: Owned, generator: LoadGenerator, seconds: float) -> Spent:
    before = read_clocks([server.pid], generator.pid)
    time.sleep(seconds)
    return subtract_clocks(read_clocks([server.pid], generator.pid), before)


def read_counts(engines: Sequence[int]) -> tuple[int, int]:
    """Places asked for and calls answered so far, over all replicas."""
    counts = [orjson.loads(_get((LOOPBACK, port), COUNTS_PATH) or b"{}") for port in engines]
    return sum(one["leases"] for one in counts), sum(one["calls"] for one in counts)


def _wait_ready(server: Owned, size: Size, port: int, directory: Path) -> list[int]:
    """Wait until every process runs and the public port answers; return the engines' ports."""
    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline:
        server.check()
        engines = sorted(directory.iterdir())
        if len(engines) == size.replicas and _all_run(size) and _get((HOST, port), "/health"):
            return [int(path.read_text(encoding="ascii")) for path in engines]
        time.sleep(_POLL_S)
    raise ServerNotReady(server.name, _READY_S, server.log_tail())


def _all_run(size: Size) -> bool:
    headers = {}
    if _AUTH_TOKEN.exists():
        headers["Authorization"] = f"Bearer {_AUTH_TOKEN.read_text(encoding='ascii').strip()}"
    body = _get(_DASHBOARD, "/api/serve/applications/", headers)
    return body is not None and count_running(json.loads(body)) == size.replicas + size.routers


def count_running(document: Mapping[str, Any]) -> int:
    """The replicas of all deployments that take calls, from Ray's dashboard."""
    return sum(
        replica["state"] == "RUNNING"
        for application in document["applications"].values()
        for deployment in application["deployments"].values()
        for replica in deployment["replicas"]
    )


def _get(
    address: tuple[str, int], path: str, headers: Mapping[str, str] | None = None
) -> bytes | None:
    """The body of a 200, None for anything else."""
    connection = HTTPConnection(*address, timeout=30)
    try:
        connection.request("GET", path, headers=dict(headers or {}))
        answer = connection.getresponse()
        return answer.read() if answer.status == 200 else None
    except (OSError, HTTPException):
        return None
    finally:
        connection.close()
