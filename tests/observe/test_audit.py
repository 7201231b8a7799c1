"""Metrics of the audit log; Ray itself need not run."""

from __future__ import annotations

from typing import Any

import pytest
from ray.serve.metrics import Counter, Gauge

from serve_app.core.audit_state import AuditState
from serve_app.observe.audit import AuditMetrics


def test_counts_grow_and_the_alarm_is_a_gauge(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new log begins at zero; without a log there are no metrics."""
    told: list[tuple[str, float]] = []

    def note(metric: Counter | Gauge, value: float, tags: dict[str, str] | None = None) -> None:
        told.append((str(metric.info["name"]).removeprefix("serve_app_audit_"), value))

    monkeypatch.setattr(Counter, "inc", note)
    monkeypatch.setattr(Gauge, "set", note)
    states: list[Any] = [
        None,
        AuditState(written=5, waiting=2),
        AuditState(written=5, lost=3, refused=1, waiting=9, failing=True),
        AuditState(written=2),
    ]
    metrics = AuditMetrics(lambda: states.pop(0))
    for _ in range(4):
        metrics.flush()
    assert told == [
        ("records", 5), ("waiting", 2), ("failing", 0),
        ("missed", 3), ("missed", 1), ("waiting", 9), ("failing", 1),
        ("records", 2), ("waiting", 0), ("failing", 0),
    ]  # fmt: skip
