"""Where the CPU time of a phase went, by the part of the system that spent it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import psutil


class Part(StrEnum):
    """The parts of a serving system, in the order in which a request meets their work."""

    LOAD_GENERATOR = "load generator"
    HAPROXY = "HAProxy"
    PROXY = "Serve proxy"
    ROUTER = "Router"
    SERVER = "server / replica"
    ENGINE_CORE = "EngineCore"
    ENGINE_WORKER = "engine Worker"
    CONTROLLER = "Serve controller"
    RAYLET = "raylet"
    GCS = "GCS"
    RAY_REST = "rest of Ray"
    OTHER = "other"


# Titles that processes give themselves, or command lines; the first match counts.
_TITLES: tuple[tuple[Part, re.Pattern[str]], ...] = tuple(
    (part, re.compile(pattern))
    for part, pattern in (
        (Part.OTHER, r"serve_app\.offline\.bench\.owner"),
        (Part.ENGINE_WORKER, r"^VLLM::Worker"),
        (Part.ENGINE_CORE, r"^VLLM::EngineCore"),
        (Part.ROUTER, r"^ray::ServeReplica:.*(Router|Ingress)|^vllm::router|bin/litellm "),
        (Part.SERVER, r"^ray::ServeReplica|vllm\.entrypoints\.openai\.api_server"),
        (Part.SERVER, r"serve_app\.offline\.bench\.responder"),
        (Part.CONTROLLER, r"^ray::ServeController"),
        # HAProxyManager only starts and reloads HAProxy; ProxyActor carries every byte.
        (Part.CONTROLLER, r"^ray::HAProxyManager"),
        (Part.PROXY, r"^ray::ProxyActor"),
        (Part.HAPROXY, r"haproxy\b.*-f |serve_app\.cli\.haproxy"),
        (Part.GCS, r"gcs_server"),
        (Part.RAYLET, r"raylet/raylet"),
        (Part.RAY_REST, r"^ray::|/ray/|ray-dashboard|bin/serve run|bin/serve-app up"),
    )
)

ProcessKey = tuple[int, float]


@dataclass(frozen=True, slots=True)
class Clocks:
    """CPU seconds so far: of each process, and of the whole machine."""

    processes: Mapping[ProcessKey, tuple[Part, float]]
    machine_s: float


@dataclass(frozen=True, slots=True)
class Spent:
    """CPU seconds between two readings; `elsewhere_s` is what no process of the run spent."""

    parts: Mapping[Part, float]
    elsewhere_s: float


def read_clocks(owners: Sequence[int], generator_pid: int) -> Clocks:
    """Reads the clocks of the load generator and of all descendants of the owners."""
    processes = {_key(process): _read(process) for owner in owners for process in _family(owner)}
    generator = psutil.Process(generator_pid)
    processes[_key(generator)] = (Part.LOAD_GENERATOR, _cpu_s(generator))
    return Clocks(processes, _machine_s())


def subtract_clocks(after: Clocks, before: Clocks) -> Spent:
    """What was spent from `before` to `after`; a process that ended in between is not seen."""
    parts: defaultdict[Part, float] = defaultdict(float)
    for key, (part, cpu_s) in after.processes.items():
        parts[part] += cpu_s - before.processes.get(key, (part, 0.0))[1]
    elsewhere_s = after.machine_s - before.machine_s - sum(parts.values())
    return Spent(dict(parts), max(0.0, elsewhere_s))


def classify(title: str) -> Part:
    """The part that a process belongs to, by its title or command line."""
    return next((part for part, pattern in _TITLES if pattern.search(title)), Part.OTHER)


def _family(owner: int) -> list[psutil.Process]:
    process = psutil.Process(owner)
    return [process, *process.children(recursive=True)]


def _key(process: psutil.Process) -> ProcessKey:
    return process.pid, process.create_time()


def _read(process: psutil.Process) -> tuple[Part, float]:
    try:
        return classify(" ".join(process.cmdline())), _cpu_s(process)
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return Part.OTHER, 0.0


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _machine_s() -> float:
    times = psutil.cpu_times()
    # Stolen time counts: what the hypervisor gives to others is missing here.
    return float(times.user + times.nice + times.system + times.irq + times.softirq + times.steal)
