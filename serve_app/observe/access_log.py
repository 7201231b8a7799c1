"""The access log: one JSON line a call, written in batches beside Ray Serve's own logs."""

from __future__ import annotations

import logging
import logging.handlers
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from serve_app.core.call import Draft, Record
from serve_app.core.trace import Trace
from serve_app.observe.log_files import OwnedLogs

BYTES_MAX = 100 * 1024 * 1024
FILES_MAX = 5
"""Files of one Router, beside the file that it writes now."""

DIRECTORY_BYTES_MAX = 2 * 1024**3
"""The bound on the logs of all Routers that ever ran on this node; each has its own name."""

PRUNE_S = 600.0

STAGES = ("receive", "decide", "lease", "head")
"""What a traced call does one after another until the head of its answer is there."""


def serve_log_dir() -> Path | None:
    """The directory of Ray Serve's logs of this process, where the dashboard shows files.

    Ray has no public call for it; its documented logger `ray.serve` has a file handler there.
    """
    for handler in logging.getLogger("ray.serve").handlers:
        target = getattr(handler, "target", None) or handler
        if isinstance(target, logging.FileHandler):
            return Path(target.baseFilename).parent
    return None


class AccessLog:
    """Writes lines, a batch at a time; for one thread. Rotates at `BYTES_MAX`.

    Logs of Routers that have ended are deleted, the oldest first, where all logs of the directory
    take more than `directory_bytes_max`.
    """

    def __init__(self, path: Path | None, directory_bytes_max: int = DIRECTORY_BYTES_MAX) -> None:
        self._owned = None if path is None else OwnedLogs(path)
        self._directory_bytes_max = directory_bytes_max
        self._prune_at = float("-inf")
        self._handler = (
            logging.StreamHandler()
            if path is None
            else logging.handlers.RotatingFileHandler(
                path, maxBytes=BYTES_MAX, backupCount=FILES_MAX, encoding="utf-8"
            )
        )
        self._logger = logging.Logger("serve_app.access")
        self._logger.addHandler(self._handler)

    def write(self, records: Sequence[Record]) -> None:
        """One line for each call."""
        if self._owned is not None and time.monotonic() >= self._prune_at:
            self._prune_at = time.monotonic() + PRUNE_S
            self._owned.prune_others(self._directory_bytes_max)
        if records:
            lines = b"\n".join(orjson.dumps(render_line(record)) for record in records)
            self._logger.info("%s", lines.decode())

    def close(self) -> None:
        """Close the file."""
        self._handler.close()
        if self._owned is not None:
            self._owned.close()


def render_line(record: Record) -> dict[str, Any]:
    """One call as a flat JSON object, without prompt, answer or client headers except the id."""
    decision = record.decision
    return {
        "time": datetime.fromtimestamp(record.arrived_at, UTC).isoformat(timespec="milliseconds"),
        "request_id": record.request_id,
        "endpoint": record.endpoint.value,
        "stream": record.stream,
        "status": record.status,
        "outcome": record.outcome.value,
        "code": record.code,
        "tier": decision.tier if decision else None,
        "model": decision.model_id if decision else None,
        "reason": decision.reason.value if decision else None,
        "score": decision.score if decision else None,
        "threshold": decision.threshold if decision else None,
        "first_byte_ms": _ms(record.first_byte_s),
        "total_ms": _ms(record.total_s),
        "prompt_tokens": record.usage.prompt_tokens,
        "completion_tokens": record.usage.completion_tokens,
        **({} if record.cache is None else {"cache": record.cache.value}),
        **({} if record.trace is None else render_trace(record.arrived_at, record.trace)),
        **({} if record.variant is None else {"variant": record.variant}),
        **render_draft(record.draft),
    }


def render_trace(arrived_at: float, trace: Trace) -> dict[str, Any]:
    """The id of a traced call, and how long it took from each of its noted times to the next."""
    last = trace.exchanges[-1] if trace.exchanges else None
    times = (
        arrived_at,
        trace.received_at,
        trace.decided_at,
        None if last is None else last.leased_at,
        None if last is None else last.head_at,
    )
    parts = {
        f"{name}_ms": None if begun is None or ended is None else _ms(ended - begun)
        for name, begun, ended in zip(STAGES, times, times[1:], strict=False)
    }
    return {"trace_id": trace.trace_id, "arrived_at": arrived_at, **parts}


def render_draft(draft: Draft | None) -> dict[str, Any]:
    """The draft that a cascade began with; empty for other calls."""
    if draft is None:
        return {}
    return {
        "draft_tier": draft.tier,
        "escalated": draft.discarded,
        "confidence": _rounded(draft.confidence),
        "draft_mean_probability": _rounded(draft.mean_probability),
        "draft_min_probability": _rounded(draft.min_probability),
        "draft_prompt_tokens": draft.usage.prompt_tokens,
        "draft_completion_tokens": draft.usage.completion_tokens,
    }


def _rounded(probability: float | None) -> float | None:
    return None if probability is None else round(probability, 5)


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 2)
