"""Prometheus metrics through Ray: buffered, because one Ray metric call costs as much as routing.

Every label comes from a closed set: endpoints, tier names of the config, reasons, outcomes and
error codes of our own tree. Nothing a client sends becomes a label. Within a replica Ray Serve adds
labels of its own: `application`, `deployment` and `replica`.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Mapping

from ray.serve.metrics import Counter, Gauge, Histogram

from serve_app.core.call import Draft, Record, Usage
from serve_app.core.errors import WouldBeLate
from serve_app.core.money import to_units
from serve_app.observe.tenants import TenantMetrics

SECONDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600]
SECONDS_PER_TOKEN = [
    0.001,
    0.0025,
    0.005,
    0.01,
    0.02,
    0.03,
    0.05,
    0.075,
    0.1,
    0.15,
    0.2,
    0.3,
    0.5,
    1,
]

PROBABILITIES = [0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99]

NO_TIER = "none"
"""The label of calls that failed before a tier was chosen."""

Labels = tuple[str, ...]


class CallMetrics:
    """The metrics of calls; `add` is called for each call, `flush` about once a second."""

    def __init__(self) -> None:
        self._calls = Counter(
            "serve_app_calls",
            "Calls that have ended, by endpoint, tier and outcome.",
            ("endpoint", "tier", "outcome"),  # type: ignore[arg-type]  # Ray says: a tuple of one
        )
        self._decisions = Counter(
            "serve_app_decisions",
            "Calls routed, by tier and reason.",
            ("tier", "reason"),  # type: ignore[arg-type]  # as above
        )
        self._errors = Counter(
            "serve_app_errors",
            "Calls that failed, by error code.",
            ("tier", "code"),  # type: ignore[arg-type]  # as above
        )
        self._late = Counter(
            "serve_app_late_calls",
            "Calls that a tier would have begun after their deadline, by what became of them.",
            ("tier", "fate"),  # type: ignore[arg-type]  # as above
        )
        self._cached = Counter(
            "serve_app_cache_results",
            "Calls that passed the cache of answers, by its result.",
            ("result",),
        )
        self._tokens = Counter(
            "serve_app_tokens",
            "Tokens as the engines counted them.",
            ("tier", "direction"),  # type: ignore[arg-type]  # as above
        )
        self._draft_tokens = Counter(
            "serve_app_draft_tokens",
            "Tokens of drafts that were discarded, up to their checkpoint.",
            ("tier", "direction"),  # type: ignore[arg-type]  # as above
        )
        self._confidence = Histogram(
            "serve_app_draft_confidence", "P(right) of drafts.", PROBABILITIES, ("tier",)
        )
        self._first_byte = Histogram(
            "serve_app_time_to_first_token_seconds",
            "From the arrival of a streamed call to the first piece of its answer.",
            SECONDS,
            ("tier",),
        )
        self._per_token = Histogram(
            "serve_app_time_per_output_token_seconds",
            "Time between the tokens of a streamed answer, the mean of each call.",
            SECONDS_PER_TOKEN,
            ("tier",),
        )
        self._total = Histogram(
            "serve_app_call_seconds",
            "Whole duration of a call.",
            SECONDS,
            ("endpoint", "tier"),  # type: ignore[arg-type]  # as above
        )
        self._leases = Gauge(
            "serve_app_leases_open", "Places that this Router holds on replicas.", ("tier",)
        )
        self._waiting = Gauge(
            "serve_app_calls_waiting", "Calls that wait for a place on a replica.", ("tier",)
        )
        self._cost = Counter(
            "serve_app_cost",
            "Cost of calls by the tier that worked for them, in the currency of `prices`.",
            ("tier",),
        )
        self._saved = Counter(
            "serve_app_saved_cost",
            "Cost that routing has saved against the strongest tier for every call.",
        )
        self._tenants = TenantMetrics()
        self._cost_nanos: Tally[str] = Tally()
        self._saved_nanos = 0
        self._tally: Tally[tuple[Counter, Labels]] = Tally()
        self._observed: list[tuple[Histogram, float, Labels]] = []

    def add(self, record: Record) -> None:
        """Note one ended call."""
        self._tenants.add(record)
        decision = record.decision
        tier = decision.tier if decision is not None else NO_TIER
        self._count(self._calls, record.endpoint.name.lower(), tier, record.outcome.value)
        if record.cache is not None:
            self._count(self._cached, record.cache.value)
        if record.code is not None:
            self._count(self._errors, tier, record.code)
        if record.late_tiers:
            self._add_late(record)
        if record.cache is not None and record.cache.free:
            # The tier has done nothing, and its latencies would look better than they are.
            return
        if decision is not None:
            self._count(self._decisions, tier, decision.reason.value)
        self._add_tokens(record, tier)
        if record.draft is not None:
            self._add_draft(record.draft)
        self._add_money(record, tier)
        labels = (record.endpoint.name.lower(), tier)
        self._observed.append((self._total, record.total_s, labels))

    def _add_late(self, record: Record) -> None:
        """A call is refused by the last tier that was asked, and spilled by those before it."""
        refused = record.code == WouldBeLate.code
        spilled = record.late_tiers[:-1] if refused else record.late_tiers
        for tier in spilled:
            self._count(self._late, tier, "spilled")
        if refused:
            self._count(self._late, record.late_tiers[-1], "refused")

    def _add_tokens(self, record: Record, tier: str) -> None:
        usage = record.usage
        self._count_tokens(self._tokens, tier, usage)
        # A refusal has no token and comes at once, so many refusals would make the tier look fast.
        if not record.stream or record.first_byte_s is None or record.status >= 400:
            return
        self._observed.append((self._first_byte, record.first_byte_s, (tier,)))
        if usage.completion_tokens and usage.completion_tokens > 1:
            seconds = (record.total_s - record.first_byte_s) / (usage.completion_tokens - 1)
            self._observed.append((self._per_token, seconds, (tier,)))

    def _add_draft(self, draft: Draft) -> None:
        if draft.confidence is not None:
            self._observed.append((self._confidence, draft.confidence, (draft.tier,)))
        if draft.discarded:
            self._count_tokens(self._draft_tokens, draft.tier, draft.usage)

    def _add_money(self, record: Record, tier: str) -> None:
        if record.cost is None:
            return
        draft = record.draft
        of_draft = 0 if draft is None or not draft.discarded else draft.cost or 0
        self._cost_nanos[tier] += record.cost - of_draft
        if draft is not None and of_draft:
            self._cost_nanos[draft.tier] += of_draft
        if record.strong_cost is not None:
            self._saved_nanos += record.strong_cost - record.cost

    def _count_tokens(self, counter: Counter, tier: str, usage: Usage) -> None:
        if usage.prompt_tokens:
            self._tally[counter, (tier, "in")] += usage.prompt_tokens
        if usage.completion_tokens:
            self._tally[counter, (tier, "out")] += usage.completion_tokens

    def _count(self, counter: Counter, *labels: str) -> None:
        self._tally[counter, labels] += 1

    def flush(self, leases: Mapping[str, Callable[[], tuple[int, int]]]) -> None:
        """Hand everything to Ray; `leases` holds each tier's open leases and waiting calls."""
        tally, self._tally = self._tally, Tally()
        observed, self._observed = self._observed, []
        for (counter, labels), value in tally.items():
            counter.inc(value, _tags(counter, labels))
        for histogram, seconds, labels in observed:
            histogram.observe(seconds, _tags(histogram, labels))
        self._flush_money()
        self._tenants.flush()
        for tier, read in leases.items():
            open_leases, waiting = read()
            self._leases.set(open_leases, {"tier": tier})
            self._waiting.set(waiting, {"tier": tier})

    def _flush_money(self) -> None:
        costs, self._cost_nanos = self._cost_nanos, Tally()
        for tier, nanos in costs.items():
            if nanos:
                self._cost.inc(to_units(nanos), {"tier": tier})
        # A counter cannot fall: what discarded drafts have cost is taken off the next savings.
        if self._saved_nanos > 0:
            self._saved.inc(to_units(self._saved_nanos))
            self._saved_nanos = 0


def _tags(metric: Counter | Histogram, labels: Labels) -> dict[str, str]:
    ours = metric.info["tag_keys"][-len(labels) :]  # after the labels that Ray Serve has added
    return dict(zip(ours, labels, strict=True))
