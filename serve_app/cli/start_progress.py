"""How far a start has come: the step of every part, and what the last start took."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve_app.config.serve_file import ROUTER_NAME
from serve_app.config.tiers import DEPLOYMENT_PREFIX
from serve_app.core.start_steps import StartStep, render_step

RAY = "Ray"
ROUTER = ROUTER_NAME
STEPS = tuple(StartStep)


@dataclass(slots=True)
class Part:
    """One part of the service. Times are seconds since the start began."""

    name: str
    step: StartStep | None = None
    """None before Ray runs."""
    ready_s: float | None = None
    last_s: float | None = None
    """When the part was ready in the last start."""
    why: str | None = None
    """Why the part waits, if Serve says so."""


class StartProgress:
    """The parts of a service that starts. A part never goes back to an earlier step."""

    def __init__(
        self,
        tiers: Iterable[str],
        last: Mapping[str, float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._began_at = clock()
        names = [RAY, *tiers, ROUTER]
        self.parts = {name: Part(name, last_s=last.get(name)) for name in names}
        self.parts[RAY].step = StartStep.IMPORTING

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start began."""
        return self._clock() - self._began_at

    @property
    def times(self) -> dict[str, float]:
        """When each part was ready."""
        parts = self.parts.values()
        return {part.name: part.ready_s for part in parts if part.ready_s is not None}

    def take(self, applications: Mapping[str, Any], log: str) -> None:
        """What Serve says of its applications, and what its processes have written so far."""
        if not applications:
            return
        self._move(RAY, StartStep.READY)
        for application in applications.values():
            for name, deployment in application["deployments"].items():
                part = name.removeprefix(DEPLOYMENT_PREFIX)
                if part in self.parts:
                    self._take_deployment(part, deployment, log)

    def finish(self) -> None:
        """The service answers."""
        for name in self.parts:
            self._move(name, StartStep.READY)

    def _take_deployment(self, name: str, deployment: Mapping[str, Any], log: str) -> None:
        replicas = deployment["replicas"]
        if deployment["status"] == "HEALTHY":
            self._move(name, StartStep.READY)
        for replica in replicas:
            self._move(name, find_step(name, replica, log))
        waits = self.parts[name].step is StartStep.WAITING
        self.parts[name].why = (deployment["message"].strip() or None) if waits else None

    def _move(self, name: str, step: StartStep) -> None:
        part = self.parts[name]
        if part.step is not None and STEPS.index(step) <= STEPS.index(part.step):
            return
        part.step = step
        if step is StartStep.READY:
            part.ready_s, part.why = self.elapsed_s, None


def find_step(name: str, replica: Mapping[str, Any], log: str) -> StartStep:
    """The step of a replica that starts."""
    if replica.get("pid") is None:
        return StartStep.WAITING
    told = [step for step in STEPS if render_step(name, step) in log]
    return told[-1] if told else StartStep.IMPORTING


class StartTimes:
    """How long the parts of each config took to start, in a file beside the service's own."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, config: str) -> dict[str, float]:
        """The times of the last start of a config; empty if there are none."""
        times = self._read_all().get(config)
        if not isinstance(times, dict):
            return {}
        return {
            name: float(seconds)
            for name, seconds in times.items()
            if isinstance(seconds, int | float)
        }

    def write(self, config: str, times: Mapping[str, float]) -> None:
        """Keep the times of a start. They are a help only, so a full disk does not matter."""
        rounded = {name: round(seconds, 1) for name, seconds in times.items()}
        with contextlib.suppress(OSError):
            self._path.write_text(json.dumps({**self._read_all(), config: rounded}, indent=1))

    def _read_all(self) -> dict[str, Any]:
        try:
            document = json.loads(self._path.read_text())
        except (OSError, ValueError):
            return {}
        return document if isinstance(document, dict) else {}
