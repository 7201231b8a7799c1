"""What a call costs against the number of replicas and Routers, as tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from serve_app.offline.bench.clocks import Part
from serve_app.offline.bench.grids import Grid
from serve_app.offline.bench.replica_runs import SizeResult
from serve_app.offline.bench.summary import ratio

_NOISY_RATIO = 0.1
_PARTS = {
    "HAProxy": (Part.HAPROXY,),
    "Routers": (Part.ROUTER,),
    "replicas": (Part.SERVER,),
    "Serve controller": (Part.CONTROLLER,),
    "Serve proxy": (Part.PROXY,),
    "rest of Ray": (Part.RAYLET, Part.GCS, Part.RAY_REST, Part.OTHER),
}


def build_grids(results: Sequence[SizeResult]) -> list[Grid]:
    """Rates and first bytes; CPU of a call; CPU without any."""
    phase = results[0].service.phase
    return [
        Grid(phase, _RATES_HEADER, [list(_rates(result)) for result in results]),
        Grid(
            f"{phase}: CPU ms a call, beyond what the processes spend without calls",
            ("size", "serving", "x first", *_PARTS, "replica asked directly"),
            [list(_call_cpu(result, results[0])) for result in results],
        ),
        Grid(
            "Without calls: CPU ms a second",
            ("size", *_PARTS, "a replica", "a Router"),
            [list(_idle_cpu(result)) for result in results],
        ),
    ]


_RATES_HEADER = (
    "size",
    "requests/s",
    "first byte p50 ms",
    "of the engine",
    "added",
    "first byte p99 ms",
    "of the engine",
    "added",
    "Ray lease calls a call",
    "CPU elsewhere",
)


def _rates(result: SizeResult) -> Iterator[str]:
    service = result.service
    yield result.size.label
    yield f"{service.requests_per_s:.1f}"
    yield from _first_byte(service.ttft_p50_ms, result.engine_first_byte_ms("ttft_p50_ms"))
    yield from _first_byte(service.ttft_p99_ms, result.engine_first_byte_ms("ttft_p99_ms"))
    yield f"{result.lease_ratio:.2f}"
    noisy = " (!)" if service.elsewhere_ratio > _NOISY_RATIO else ""
    yield f"{service.elsewhere_ratio:.0%}{noisy}"


def _first_byte(service_ms: float | None, engine_ms: float) -> Iterator[str]:
    """Of the service, of the engine alone, and the difference."""
    service_ms = service_ms or 0.0
    yield from (f"{ms:.1f}" for ms in (service_ms, engine_ms, service_ms - engine_ms))


def _call_cpu(result: SizeResult, first: SizeResult) -> Iterator[str]:
    total = sum_call_cpu(result)
    yield result.size.label
    yield f"{total:.2f}"
    yield f"{ratio(total, sum_call_cpu(first)):.2f}"
    for parts in _PARTS.values():
        yield f"{sum(map(result.call_cpu_ms, parts)):.2f}"
    yield f"{result.engine_cpu_ms:.2f}"


def sum_call_cpu(result: SizeResult) -> float:
    """CPU milliseconds of one call, over everything that serves."""
    return sum(sum(map(result.call_cpu_ms, parts)) for parts in _PARTS.values())


def _idle_cpu(result: SizeResult) -> Iterator[str]:
    idle = result.idle_ms_per_s
    yield result.size.label
    yield from (f"{_sum(idle, parts):.0f}" for parts in _PARTS.values())
    yield f"{idle.get(Part.SERVER, 0.0) / result.size.replicas:.1f}"
    yield f"{idle.get(Part.ROUTER, 0.0) / result.size.routers:.1f}"


def _sum(milliseconds: Mapping[Part, float], parts: Sequence[Part]) -> float:
    return sum(milliseconds.get(part, 0.0) for part in parts)
