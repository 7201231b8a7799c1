"""Measures the rates that a roofline is made of: `python -m serve_app.offline.bench.gpu.kernels`.

In a process of its own, so that the memory of the GPU is free again when it ends. On a CPU the same
operations are measured with small sizes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from time import perf_counter

import orjson
import torch

from serve_app.offline.bench.gpu.rates import GIB, Rates

_FP8_CAPABILITY = (8, 9)
_LAUNCHES = 200


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is moved and multiplied."""

    copied_bytes: int
    rows: int
    columns: int
    """Of a matrix that one vector is multiplied with, as a decoding step does."""
    square: int
    """Side of the matrices that are multiplied, as reading a prompt does."""
    wait_s: float


GPU = Sizes(copied_bytes=4 * GIB, rows=65536, columns=16384, square=8192, wait_s=1.0)
CPU = Sizes(copied_bytes=GIB // 8, rows=16384, columns=4096, square=768, wait_s=0.3)


def measure(device: torch.device, sizes: Sizes) -> Rates:
    """All rates of one device."""
    cuda = device.type == "cuda"
    return Rates(
        device=torch.cuda.get_device_name(device) if cuda else "CPU",
        memory_gib=torch.cuda.get_device_properties(device).total_memory / GIB if cuda else None,
        copy_gb_s=_measure_copy(device, sizes),
        read_gb_s=_measure_read(device, sizes),
        bf16_tflops=_measure_bf16(device, sizes),
        fp8_tflops=_measure_fp8(device, sizes) if cuda and _has_fp8(device) else None,
        launch_us=_measure_launch(device, sizes),
    )


def _measure_copy(device: torch.device, sizes: Sizes) -> float:
    source = torch.ones(sizes.copied_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * sizes.copied_bytes / _time(lambda: target.copy_(source), device, sizes) / 1e9


def _measure_read(device: torch.device, sizes: Sizes) -> float:
    matrix = _random(sizes.rows, sizes.columns, device)
    vector = _random(1, sizes.columns, device)
    seconds = _time(lambda: torch.nn.functional.linear(vector, matrix), device, sizes)
    return int(matrix.nbytes) / seconds / 1e9


def _measure_bf16(device: torch.device, sizes: Sizes) -> float:
    left, right = (_random(sizes.square, sizes.square, device) for _ in range(2))
    return 2 * sizes.square**3 / _time(lambda: left @ right, device, sizes) / 1e12


def _measure_fp8(device: torch.device, sizes: Sizes) -> float:
    left, right = (
        _random(sizes.square, sizes.square, device).to(torch.float8_e4m3fn) for _ in range(2)
    )
    one = torch.ones((), device=device)

    def multiply() -> torch.Tensor:
        return torch._scaled_mm(left, right.t(), one, one, out_dtype=torch.bfloat16)

    return 2 * sizes.square**3 / _time(multiply, device, sizes) / 1e12


def _measure_launch(device: torch.device, sizes: Sizes) -> float:
    number = torch.zeros(1, device=device)

    def launch() -> None:
        for _ in range(_LAUNCHES):
            number.add_(1)

    return 1e6 * _time(launch, device, sizes) / _LAUNCHES


def _random(rows: int, columns: int, device: torch.device) -> torch.Tensor:
    # Not zeros: the power that a GPU takes, and so its clock, depends on the numbers.
    return torch.randn(rows, columns, dtype=torch.bfloat16, device=device)


def _has_fp8(device: torch.device) -> bool:
    return tuple(torch.cuda.get_device_capability(device)) >= _FP8_CAPABILITY


def _time(run: Callable[[], object], device: torch.device, sizes: Sizes) -> float:
    """Seconds a run, over as many runs as fill `wait_s`; the first ones choose kernels."""
    for _ in range(3):
        run()
    _wait(device)
    began = perf_counter()
    run()
    _wait(device)
    runs = max(3, int(sizes.wait_s / max(perf_counter() - began, 1e-6)))
    began = perf_counter()
    for _ in range(runs):
        run()
    _wait(device)
    return (perf_counter() - began) / runs


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    """Prints the rates of the first GPU, or with --cpu of the CPU, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cpu", action="store_true")
    device = torch.device("cpu" if parser.parse_args().cpu else "cuda:0")
    with torch.inference_mode():
        rates = measure(device, CPU if device.type == "cpu" else GPU)
    sys.stdout.buffer.write(orjson.dumps(asdict(rates)) + b"\n")


if __name__ == "__main__":
    main()
