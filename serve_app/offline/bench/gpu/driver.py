"""The GPU of this machine, if it has one, by the driver's own `nvidia-smi`."""

from __future__ import annotations

from serve_app.offline.bench.gpu.results import Gpu
from serve_app.offline.doctor.cards import Run, run_nvidia_smi

_FORMAT = "--format=csv,noheader,nounits"


def find_gpu(run: Run = run_nvidia_smi) -> Gpu | None:
    """The first GPU, or None without a GPU or a driver."""
    cells = _read_first(run, "name,memory.total,driver_version")
    return None if cells is None else Gpu(cells[0], float(cells[1]), cells[2])


def read_used_gib(run: Run = run_nvidia_smi) -> float | None:
    """The memory of the first GPU that all processes use together."""
    cells = _read_first(run, "memory.used")
    return None if cells is None else float(cells[0]) / 1024


def _read_first(run: Run, query: str) -> list[str] | None:
    text = run([f"--query-gpu={query}", _FORMAT])
    lines = text.splitlines() if text else []
    return [cell.strip() for cell in lines[0].split(",")] if lines else None
