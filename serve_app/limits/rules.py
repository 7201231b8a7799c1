"""Which limits apply to a caller: from the rules of the config to limits of named subjects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from urllib.parse import quote

from serve_app.config.limits import LimitRuleConfig
from serve_app.core.caller import Caller
from serve_app.core.money import NANOS
from serve_app.limits.limit import Limit, Measure
from serve_app.limits.windows import LimitWindow

KINDS: dict[str, tuple[Measure, LimitWindow]] = {
    "requests_per_min": (Measure.REQUESTS, LimitWindow.MINUTE),
    "tokens_per_min": (Measure.TOKENS, LimitWindow.MINUTE),
    "calls_at_a_time": (Measure.CALLS, LimitWindow.NOW),
    "tokens_per_day": (Measure.TOKENS, LimitWindow.DAY),
    "tokens_per_month": (Measure.TOKENS, LimitWindow.MONTH),
    "money_per_day": (Measure.MONEY, LimitWindow.DAY),
    "money_per_month": (Measure.MONEY, LimitWindow.MONTH),
}
SPANS = {
    LimitWindow.MINUTE: " per minute",
    LimitWindow.DAY: " per day",
    LimitWindow.MONTH: " per month",
    LimitWindow.NOW: " at a time",
}


class LimitRules:
    """The rules of a config, and the limits of the subjects seen last."""

    def __init__(self, rules: Sequence[LimitRuleConfig], currency: str, known_max: int = 4096):
        self._rules = tuple(rules)
        self._currency = currency
        self._known: dict[tuple[str, str | None, str | None], tuple[Limit, ...]] = {}
        self._known_max = known_max

    def limits_of(self, caller: Caller) -> tuple[Limit, ...]:
        """Every limit of a caller, those of single tiers too."""
        subject = (caller.tenant, caller.key_id, caller.user)
        found = self._known.get(subject)
        if found is None:
            if len(self._known) >= self._known_max:
                self._known.clear()
            found = self._known[subject] = tuple(self._find(caller))
        return found

    def _find(self, caller: Caller) -> Iterator[Limit]:
        for rule in self._rules:
            name = subject_name(rule, caller)
            if name is not None:
                for kind, amount in rule.amounts_of(name).items():
                    yield self._limit(rule, caller.tenant, name, kind, amount)

    def _limit(
        self, rule: LimitRuleConfig, tenant: str, name: str, kind: str, amount: float
    ) -> Limit:
        measure, window = KINDS[kind]
        whole = round(amount * NANOS) if measure is Measure.MONEY else int(amount)
        # Redis Cluster puts keys with the same part in braces on one node, as a script needs it.
        tag = "{" + quote(tenant, safe="") + "}"
        parts = (tag, rule.per, quote(name, safe=""), rule.tier or "", measure.value, window.value)
        words = self._words(rule, measure, window, amount)
        return Limit(":".join(parts), measure, window, whole, words, rule.tier)

    def _words(
        self, rule: LimitRuleConfig, measure: Measure, window: LimitWindow, amount: float
    ) -> str:
        unit = self._currency if measure is Measure.MONEY else measure.value
        where = f" on tier {rule.tier}" if rule.tier else ""
        return f"{amount:.15g} {unit}{SPANS[window]} for this {rule.per}{where}"


def subject_name(rule: LimitRuleConfig, caller: Caller) -> str | None:
    """The name of the rule's subject, None where the caller has none."""
    if rule.per == "tenant":
        return caller.tenant
    if rule.per == "key":
        return caller.key_id
    return None if caller.user is None else f"{caller.tenant}/{caller.user}"
