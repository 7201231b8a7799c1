"""The config of `serve_app/traces`."""

from __future__ import annotations

from pydantic import Field

from serve_app.config.base import Config


class TracesConfig(Config):
    """Traces of calls, sent to an OpenTelemetry collector."""

    endpoint: str = Field(
        pattern=r"^https?://[A-Za-z0-9.:\[\]-]+(/[A-Za-z0-9._~/-]*)?$",
        max_length=2000,
        description="Address for traces by OTLP over HTTP, with its path: "
        "`http://collector:4318/v1/traces`. Needs the extra `traces`.",
    )
    sample_ratio: float = Field(
        0.1, ge=0, le=1, description="Share of calls that are traced, chosen when they arrive."
    )
    errors: bool = Field(
        True,
        description="Also trace every call that fails by our fault, chosen when it has ended. Such "
        "a trace lacks the spans of the engine itself.",
    )
    follow_parent: bool = Field(
        False,
        description="Let a `traceparent` with the flag `sampled` choose instead of `sample_ratio`. "
        "Only for clients that are trusted: each of them could have all of its calls traced.",
    )
    waiting_max: int = Field(
        2048,
        ge=1,
        le=100_000,
        description="Traces that wait for the collector; later ones are lost and counted.",
    )
    deadline_s: float = Field(
        5.0, gt=0, le=60, description="Longest time that the collector may take for a batch."
    )
