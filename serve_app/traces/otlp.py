"""OTLP over HTTP, by OpenTelemetry's own exporter."""

from __future__ import annotations

from collections.abc import Sequence

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, Resource
from opentelemetry.sdk.trace.export import SpanExportResult

from serve_app.config.traces import TracesConfig
from serve_app.traces.spans import Ended, build_spans


class OtlpExporter:
    """Sends spans to the collector's endpoint."""

    def __init__(self, config: TracesConfig, replica: str) -> None:
        # Not Resource.create, which reads the environment and looks at the machine.
        self._resource = Resource({SERVICE_NAME: "serve-app", SERVICE_INSTANCE_ID: replica})
        self._exporter = OTLPSpanExporter(config.endpoint, timeout=config.deadline_s)

    def send(self, ended: Sequence[Ended]) -> bool:
        """Whether the collector has taken the traces, within the deadline of the config."""
        spans = [span for each in ended for span in build_spans(each, self._resource)]
        return self._exporter.export(spans) is SpanExportResult.SUCCESS

    def close(self) -> None:
        """Close the connection."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call]  # of OpenTelemetry
