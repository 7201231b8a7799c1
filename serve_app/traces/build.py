"""Makes the tracer of a Router from its config."""

from __future__ import annotations

from typing import Protocol

from serve_app.config.runtime import RuntimeConfig
from serve_app.traces.otlp import OtlpExporter
from serve_app.traces.tracer import SampledTracer


class TracePlan(Protocol):
    """What the tracer is made of, beside its own config."""

    @property
    def runtime(self) -> RuntimeConfig: ...

    @property
    def replica(self) -> str: ...


def needs(plan: TracePlan) -> object:
    """The values that the tracer is made of."""
    return plan.runtime.traces, plan.replica


def build(plan: TracePlan) -> SampledTracer:
    """The tracer of a Router."""
    config = plan.runtime.traces
    assert config is not None, "a tracer is made where the config asks for it"
    return SampledTracer(config, OtlpExporter(config, plan.replica))
