"""Metrics: every label from a closed set, whatever a client sends; Ray itself need not run."""

from __future__ import annotations

import pytest
import ray
from ray.serve.metrics import Counter

from serve_app.core import errors
from serve_app.core.call import Decision, Draft, Endpoint, Outcome, Reason, Record, Usage
from serve_app.observe.metrics import NO_TIER, CallMetrics

HOSTILE = 'x"} 1\n{injected="'
TIERS = {"fast", "strong", NO_TIER}
ALLOWED = {
    "endpoint": {endpoint.name.lower() for endpoint in Endpoint},
    "tier": TIERS,
    "outcome": {outcome.value for outcome in Outcome},
    "reason": {reason.value for reason in Reason},
    "code": {
        value.code
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, errors.GatewayError) and value.code
    },
    "direction": {"in", "out"},
}
DISCARDED = Draft("fast", discarded=True, confidence=0.1, usage=Usage(3, 16))
RECORDS = [
    Record(
        HOSTILE,
        endpoint,
        stream=True,
        decision=decision,
        code=code,
        outcome=outcome,
        first_byte_s=0.1,
        total_s=1.0,
        usage=Usage(3, 5),
        draft=draft,
    )
    for endpoint in Endpoint
    for outcome in Outcome
    for code in (None, "model_unavailable")
    for decision in (None, *(Decision("fast", HOSTILE, reason, 0.1) for reason in Reason))
    for draft in (None, Draft("fast"), DISCARDED)
]


@pytest.fixture(scope="module")
def metrics() -> CallMetrics:
    """The metrics after one call of every kind; not yet flushed."""
    metrics = CallMetrics()
    for record in RECORDS:
        metrics.add(record)
    return metrics


def test_labels_come_from_closed_sets(metrics: CallMetrics) -> None:
    """No request id, model name or other text of a client becomes a label."""
    noted = [*metrics._tally, *((metric, labels) for metric, _, labels in metrics._observed)]
    assert noted
    for metric, labels in noted:
        for key, label in zip(metric.info["tag_keys"], labels, strict=True):
            assert label in ALLOWED[key]


def test_only_discarded_drafts_count_as_such() -> None:
    """A released draft's tokens are those of the answer."""
    metrics = CallMetrics()
    for draft in (DISCARDED, Draft("fast", confidence=0.9, usage=Usage(3, 16))):
        decision = Decision("strong", "demo-strong", Reason.ESCALATED)
        metrics.add(Record("r", Endpoint.CHAT, stream=True, decision=decision, draft=draft))
    counted = {
        labels: value
        for (counter, labels), value in metrics._tally.items()
        if counter.info["name"] == "serve_app_draft_tokens"
    }
    assert counted == {("fast", "in"): 3, ("fast", "out"): 16}


@pytest.mark.parametrize(("status", "seen"), [(200, 1), (400, 0), (502, 0)])
def test_a_refusal_is_no_first_token(status: int, seen: int) -> None:
    """Its head comes at once and would make the tier look fast."""
    metrics = CallMetrics()
    decision = Decision("fast", "demo-fast", Reason.SIMPLE)
    record = Record("r", Endpoint.CHAT, stream=True, decision=decision, status=status)
    record.first_byte_s = 0.01
    metrics.add(record)
    names = [metric.info["name"] for metric, _, _ in metrics._observed]
    assert names.count("serve_app_time_to_first_token_seconds") == seen


def test_a_flush_empties_the_buffers(metrics: CallMetrics) -> None:
    """Ray takes every sample with its tags, once, and no Ray is started for it."""
    metrics.flush({"fast": lambda: (2, 1)})
    assert not metrics._tally
    assert not metrics._observed
    assert not ray.is_initialized()


def test_money_by_tier_and_what_routing_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    """A draft's cost belongs to its own tier, and losses by drafts are taken off later savings."""
    told: list[tuple[str, float]] = []

    def note(metric: Counter, value: float, tags: dict[str, str] | None = None) -> None:
        told.append((" ".join([metric.info["name"], *(tags or {}).values()]), value))

    metrics = CallMetrics()
    monkeypatch.setattr(Counter, "inc", note)
    draft = Draft("fast", discarded=True, usage=Usage(5, 2), cost=1_000_000_000)
    costly = Record("r", Endpoint.CHAT, stream=False, draft=draft)
    costly.decision = Decision("strong", "demo-strong", Reason.ESCALATED)
    costly.cost, costly.strong_cost = 5_000_000_000, 4_000_000_000
    cheap = Record("r", Endpoint.CHAT, stream=False)
    cheap.decision = Decision("fast", "demo-fast", Reason.SIMPLE)
    cheap.cost, cheap.strong_cost = 1_000_000_000, 4_000_000_000
    metrics._add_money(costly, "strong")
    metrics._flush_money()
    assert told == [("serve_app_cost strong", 4.0), ("serve_app_cost fast", 1.0)]
    told.clear()
    metrics._add_money(cheap, "fast")
    metrics._flush_money()
    assert told == [("serve_app_cost fast", 1.0), ("serve_app_saved_cost", 2.0)]


@pytest.mark.parametrize(
    ("late_tiers", "code", "counted"),
    [
        ([], None, {}),
        (["strong"], None, {("strong", "spilled"): 1}),
        (["strong"], "model_unavailable", {("strong", "spilled"): 1}),
        (["strong"], "deadline_unreachable", {("strong", "refused"): 1}),
        (
            ["strong", "fast"],
            "deadline_unreachable",
            {("strong", "spilled"): 1, ("fast", "refused"): 1},
        ),
    ],
)
def test_late_calls_are_spilled_or_refused(
    late_tiers: list[str], code: str | None, counted: dict[tuple[str, str], int]
) -> None:
    """Refused is what the last tier does whose error the client gets."""
    metrics = CallMetrics()
    metrics.add(Record("r", Endpoint.CHAT, stream=True, late_tiers=late_tiers, code=code))
    late = {
        labels: count
        for (metric, labels), count in metrics._tally.items()
        if metric is metrics._late
    }
    assert late == counted
