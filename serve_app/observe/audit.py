"""Metrics of the audit log: an alarm where calls could not be recorded."""

from __future__ import annotations

from collections.abc import Callable

from ray.serve.metrics import Counter, Gauge

from serve_app.core.audit_state import AuditState


class AuditMetrics:
    """Reads the state of the audit log about once a second."""

    def __init__(self, read: Callable[[], AuditState | None]) -> None:
        """`read` returns None where the config asks for no audit log."""
        self._read = read
        self._records = Counter("serve_app_audit_records", "Records of the audit log on disk.")
        self._missed = Counter(
            "serve_app_audit_missed",
            "Calls without a record: answered without one, or refused.",
            ("fate",),
        )
        self._waiting = Gauge("serve_app_audit_waiting", "Records that are not on disk yet.")
        self._failing = Gauge(
            "serve_app_audit_failing", "1 while calls cannot be recorded, otherwise 0."
        )
        self._last = AuditState()

    def flush(self) -> None:
        """Hand the growth of the counts to Ray."""
        state = self._read()
        if state is None:
            return
        last, self._last = self._last, state
        if state.written < last.written:
            last = AuditState()  # a new config has begun a new log
        grown = state.written - last.written
        if grown:
            self._records.inc(grown)
        for fate in ("lost", "refused"):
            if missed := max(0, getattr(state, fate) - getattr(last, fate)):
                self._missed.inc(missed, {"fate": fate})
        self._waiting.set(state.waiting)
        self._failing.set(int(state.failing))
