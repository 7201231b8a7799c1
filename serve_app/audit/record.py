"""The record of a call in the audit log."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from serve_app.core.call import Decision, Draft, Record
from serve_app.core.caller import Caller


def render_call(record: Record, currency: str | None) -> dict[str, Any]:
    """One ended call, without its texts. Amounts of money are nanos, so that sums are exact."""
    decision = record.decision
    return {
        "time": datetime.fromtimestamp(record.arrived_at, UTC).isoformat(timespec="milliseconds"),
        "request_id": record.request_id,
        **_render_caller(record.caller),
        "endpoint": record.endpoint.value,
        "stream": record.stream,
        "status": record.status,
        "outcome": record.outcome.value,
        "code": record.code,
        **_render_decision(decision),
        "first_byte_ms": _ms(record.first_byte_s),
        "total_ms": _ms(record.total_s),
        "prompt_tokens": record.usage.prompt_tokens,
        "cached_tokens": record.usage.cached_tokens,
        "completion_tokens": record.usage.completion_tokens,
        "cache": None if record.cache is None else record.cache.value,
        "cost_nanos": record.cost,
        "strong_cost_nanos": record.strong_cost,
        "currency": None if record.cost is None else currency,
        **({} if record.draft is None else _render_draft(record.draft)),
    }


def _render_caller(caller: Caller) -> dict[str, Any]:
    return {
        "tenant": caller.tenant,
        "key_id": caller.key_id,
        "user": caller.user,
        "roles": caller.roles,
        "address": caller.address,
    }


def _render_decision(decision: Decision | None) -> dict[str, Any]:
    if decision is None:
        return {"tier": None, "model": None, "reason": None, "score": None, "threshold": None}
    return {
        "tier": decision.tier,
        "model": decision.model_id,
        "reason": decision.reason.value,
        "score": decision.score,
        "threshold": decision.threshold,
    }


def _render_draft(draft: Draft) -> dict[str, Any]:
    return {
        "draft_tier": draft.tier,
        "draft_discarded": draft.discarded,
        "draft_confidence": draft.confidence,
        "draft_prompt_tokens": draft.usage.prompt_tokens,
        "draft_completion_tokens": draft.usage.completion_tokens,
        "draft_cost_nanos": draft.cost,
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 2)
