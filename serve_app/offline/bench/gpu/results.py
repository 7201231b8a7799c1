"""The findings of a check so far; they are on disk after every step, so that an aborted run keeps
them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

import orjson

from serve_app.offline.bench.gpu.asking import Prefill, Stream
from serve_app.offline.bench.gpu.engine_log import EngineFacts
from serve_app.offline.bench.gpu.rates import Rates
from serve_app.offline.bench.grids import Grid
from serve_app.offline.bench.machine import Machine


@dataclass(frozen=True, slots=True)
class Gpu:
    """The first GPU, as the driver reports it."""

    name: str
    memory_mib: float
    driver: str

    def __str__(self) -> str:
        return f"{self.name}, {self.memory_mib / 1024:.0f} GiB, driver {self.driver}"


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the check: how long it took, and what came of it."""

    name: str
    seconds: float
    outcome: str
    good: bool = True


@dataclass(frozen=True, slots=True)
class Said:
    """One finding of `serve-app doctor`."""

    level: str
    check: str
    what: str


@dataclass(frozen=True, slots=True)
class ReplicaRates:
    """The rates that `serve-app measure-rates` found for a tier's replica."""

    tier: str
    prompt_tokens: int
    output_tokens: int
    prompt_tokens_per_s: float
    output_tokens_per_s: float


@dataclass(slots=True)
class Results:
    """Everything, in the order in which the steps find it."""

    machine: Machine
    gpu: Gpu | None
    config: str
    doctor: list[Said] = field(default_factory=list)
    rates: Rates | None = None
    starts_s: dict[str, float] = field(default_factory=dict)
    """Seconds from the command to the first answer, by server."""
    engines: dict[str, EngineFacts] = field(default_factory=dict)
    """The facts of bare vLLM, by tier."""
    streams: list[Stream] = field(default_factory=list)
    prefills: list[Prefill] = field(default_factory=list)
    card_used_gib: float | None = None
    """Of the GPU, with the service on it and nothing else."""
    replicas: list[ReplicaRates] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    tables: list[Grid] = field(default_factory=list)
    """As they are printed at the end, the plan's estimates beside the rest."""

    def write(self, path: Path) -> None:
        """Replace the file, which is whole at any time."""
        draft = path.with_suffix(".draft")
        options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
        draft.write_bytes(orjson.dumps(asdict(self), option=options))
        draft.replace(path)
