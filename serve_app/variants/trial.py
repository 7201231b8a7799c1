"""The trial of a tier's variants: who is drawn for a call, what came of it, and who is out."""

from __future__ import annotations

import hashlib
import random
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from serve_app.config.variants import RollbackConfig, TierVariantsConfig
from serve_app.variants.evidence import Evidence, add_up

FIRST_TOKENS = 200
FIRST_TOKENS_MIN = 50
"""First tokens of the incumbent without which none counts as slow."""
SLOW_QUANTILE = 0.95
KEY_QUIET_S = 10.0
"""Bad ends of one key within this time count once: a prompt that breaks engines breaks both."""
KEYS_MAX = 10_000
CALLS_MAX = 10_000
"""Ended calls that feedback can still name."""


class Signal(StrEnum):
    """A way for a call to end badly; a closed set, so that it can label metrics."""

    FAULTS = "faults"
    REFUSED = "refused"
    SLOW = "slow"
    DISLIKED = "disliked"


@dataclass(frozen=True, slots=True)
class Drawn:
    """Who was drawn for a call: a variant, or None for the incumbent.

    `shares` are the probabilities of the variants that the incumbent is compared with, each as a
    part of its own share and the incumbent's.
    """

    variant: str | None
    shares: Mapping[str, float]
    key: str | None = None


@dataclass(slots=True)
class Tally:
    """The calls that somebody answered, and how many ended badly, by signal."""

    calls: int = 0
    bad: dict[str, int] = field(default_factory=dict)

    def add(self, other: Tally) -> None:
        """Count the calls of another Router."""
        self.calls += other.calls
        for signal, count in other.bad.items():
            self.bad[signal] = self.bad.get(signal, 0) + count


@dataclass(frozen=True, slots=True)
class TrialReport:
    """What one Router knows of a trial, for the other Routers.

    `products` holds the evidence against each variant by signal. `out` says which variants are
    rolled back, and why. `shares` and `tallies` are by variant, with "" for the incumbent.
    """

    trial: str
    shares: Mapping[str, float]
    products: Mapping[str, Mapping[str, Sequence[float]]]
    out: Mapping[str, str]
    tallies: Mapping[str, Tally]


class Trial:
    """The trial that one Router makes of the variants of one tier.

    It convicts on the evidence of all Routers as far as it knows them (`merge`).
    """

    def __init__(
        self,
        tier: str,
        config: TierVariantsConfig,
        clock: Callable[[], float],
        chance: random.Random | None = None,
    ) -> None:
        self.tier = tier
        self.config = config
        self.out: dict[str, str] = {}
        """The variants that are rolled back, each with the reason."""
        self.tallies: dict[str, Tally] = {}
        self._clock = clock
        self._chance = chance or random.Random()
        self._evidence: dict[str, dict[Signal, Evidence]] = {}
        self._others: dict[str, TrialReport] = {}
        self._first_tokens: deque[float] = deque(maxlen=FIRST_TOKENS)
        self._limit_s: float | None = None
        self._quiet_until: OrderedDict[tuple[str, Signal], float] = OrderedDict()
        self._ended: OrderedDict[str, Drawn] = OrderedDict()

    @property
    def name(self) -> str:
        """What tells this trial from an earlier one of the tier."""
        return f"{self.tier}/{self.config.trial}"

    def configure(self, config: TierVariantsConfig) -> None:
        """Take new shares and bounds within the same trial."""
        self.config = config
        self._judge_all()

    @property
    def shares(self) -> dict[str, float]:
        """The share of each variant that is not rolled back."""
        return {name: share for name, share in self.config.shares.items() if name not in self.out}

    def draw(self, key: str | None) -> Drawn:
        """Who answers a call; the calls of one key are drawn alike as long as the shares last."""
        at = self._chance.random() if key is None else _spread(f"{self.name}\0{key}")
        compared = self._compared()
        for name, share in sorted(self.config.shares.items()):
            at -= share
            if at < 0:
                # A variant that is out leaves its calls to the incumbent, and to no other variant.
                chosen = None if name in self.out else name
                return Drawn(chosen, {} if name in self.out else compared, key)
        return Drawn(None, compared, key)

    def draw_shadows(self) -> list[str]:
        """The variants that answer a call as well."""
        return [
            name
            for name, share in self.config.shadows.items()
            if name not in self.out and self._chance.random() < share
        ]

    def _compared(self) -> Mapping[str, float]:
        incumbent = self.config.incumbent_share
        if not incumbent:
            return {}
        return {name: share / (share + incumbent) for name, share in self.shares.items() if share}

    def note_end(
        self, drawn: Drawn, bad: Iterable[Signal], request_id: str, *, first_token_s: float | None
    ) -> None:
        """A call has ended; `first_token_s` is None where nothing tells it."""
        found = list(bad)
        if first_token_s is not None:
            if self._limit_s is not None and first_token_s > self._limit_s:
                found.append(Signal.SLOW)
            if drawn.variant is None:
                self._note_first_token(first_token_s)
        self._tally(drawn).calls += 1
        for signal in found:
            self._note_bad(drawn, signal)
        self._ended[request_id] = drawn
        while len(self._ended) > CALLS_MAX:
            self._ended.popitem(last=False)

    def note_shadow(self, variant: str, bad: Iterable[Signal]) -> None:
        """A shadow call has ended; it is counted apart, and convicts nobody."""
        tally = self.tallies.setdefault(f"{variant} (shadow)", Tally())
        tally.calls += 1
        for signal in bad:
            tally.bad[signal] = tally.bad.get(signal, 0) + 1

    def note_feedback(self, request_id: str, *, right: bool) -> None:
        """An application has judged an answer; only the first judgement of a call counts."""
        drawn = self._ended.pop(request_id, None)
        if drawn is not None and not right:
            self._note_bad(drawn, Signal.DISLIKED)

    def _note_first_token(self, seconds: float) -> None:
        self._first_tokens.append(seconds)
        count = len(self._first_tokens)
        rollback = self.config.rollback
        if rollback is None or count < FIRST_TOKENS_MIN:
            return
        if self._limit_s is None or count % 10 == 0 or seconds > self._limit_s:
            ordered = sorted(self._first_tokens)
            quantile = ordered[int(SLOW_QUANTILE * (count - 1))]
            self._limit_s = rollback.first_token_ratio_max * quantile

    def _tally(self, drawn: Drawn) -> Tally:
        return self.tallies.setdefault(drawn.variant or "", Tally())

    def _note_bad(self, drawn: Drawn, signal: Signal) -> None:
        tally = self._tally(drawn)
        tally.bad[signal] = tally.bad.get(signal, 0) + 1
        rollback = self.config.rollback
        if rollback is None or not drawn.shares or self._is_repeated(drawn.key, signal):
            return
        involved = drawn.shares if drawn.variant is None else (drawn.variant,)
        for name in involved:
            if name not in drawn.shares:
                continue
            evidence = self._evidence.setdefault(name, {}).setdefault(signal, Evidence())
            evidence.note(
                on_variant=drawn.variant is not None,
                share=drawn.shares[name],
                tolerated=rollback.worse_ratio_max,
            )
            self._judge(name, signal, rollback)

    def _is_repeated(self, key: str | None, signal: Signal) -> bool:
        if key is None:
            return False
        now = self._clock()
        if self._quiet_until.get((key, signal), float("-inf")) > now:
            return True
        self._quiet_until[key, signal] = now + KEY_QUIET_S
        self._quiet_until.move_to_end((key, signal))
        while len(self._quiet_until) > KEYS_MAX:
            self._quiet_until.popitem(last=False)
        return False

    def _judge_all(self) -> None:
        rollback = self.config.rollback
        if rollback is None:
            return
        for name in self.config.shares:
            for signal in Signal:
                self._judge(name, signal, rollback)

    def _judge(self, name: str, signal: Signal, rollback: RollbackConfig) -> None:
        """Roll a variant back if the evidence of all Routers convicts it.

        Each signal gets an equal part of the probability of a false alarm.
        """
        if name in self.out or not _is_asked(signal, rollback):
            return
        own = self._evidence.get(name, {}).get(signal, Evidence()).log_products
        reports = [report.products for report in self._others.values()]
        others = [
            products[name][signal] for products in reports if signal in products.get(name, {})
        ]
        if add_up([own, *others]).convicts(rollback.false_alarm_ratio / len(Signal)):
            self.out[name] = signal.value

    def report(self) -> TrialReport:
        """What this Router knows, without what it has heard."""
        products = {
            name: {signal.value: tuple(one.log_products) for signal, one in found.items()}
            for name, found in self._evidence.items()
        }
        shares = {"": self.config.incumbent_share, **self.config.shares}
        return TrialReport(self.name, shares, products, dict(self.out), dict(self.tallies))

    def merge(self, router: str, report: TrialReport) -> None:
        """Take what another Router knows; the latest report of each Router counts.

        A Router that has ended stays counted: what it has seen has happened.
        """
        if report.trial != self.name:
            return
        self._others[router] = report
        for name, why in report.out.items():
            self.out.setdefault(name, why)
        self._judge_all()

    def total(self) -> dict[str, Tally]:
        """The calls of all Routers."""
        total: dict[str, Tally] = {}
        for tallies in (self.tallies, *(report.tallies for report in self._others.values())):
            for name, tally in tallies.items():
                total.setdefault(name, Tally()).add(tally)
        return total


def _is_asked(signal: Signal, rollback: RollbackConfig) -> bool:
    # An engine that refuses what another one takes is as faulty as one that fails at it.
    return ("faults" if signal is Signal.REFUSED else signal.value) in rollback.signals


def _spread(text: str) -> float:
    """A number from 0 to 1, the same on every Router."""
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64
