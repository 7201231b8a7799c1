"""Metrics of variants: their shares, their calls and bad ends, and their rollbacks."""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from ray.serve.metrics import Counter, Gauge

INCUMBENT = "incumbent"


class CallsSeen(Protocol):
    """The calls that somebody answered; see `variants/trial.py`."""

    @property
    def calls(self) -> int: ...
    @property
    def bad(self) -> Mapping[str, int]: ...


class TrialSeen(Protocol):
    """The trial of one tier; see `variants/trial.py`."""

    @property
    def tier(self) -> str: ...
    @property
    def shares(self) -> Mapping[str, float]: ...
    @property
    def out(self) -> Mapping[str, str]: ...
    @property
    def tallies(self) -> Mapping[str, CallsSeen]: ...


class VariantMetrics:
    """Reads the trials about once a second."""

    def __init__(self, read: Callable[[], Sequence[TrialSeen]]) -> None:
        self._read = read
        self._counted: Counts[tuple[str, ...]] = Counts()
        self._share = Gauge(
            "serve_app_variant_ratio",
            "Share of the tier's calls that the variant gets.",
            ("tier", "variant"),  # type: ignore[arg-type]  # Ray says: a tuple of one
        )
        self._out = Gauge(
            "serve_app_variant_rolled_back",
            "1 if the variant is rolled back, otherwise 0.",
            ("tier", "variant"),  # type: ignore[arg-type]  # as above
        )
        self._calls = Counter(
            "serve_app_variant_calls",
            "Calls drawn for a variant, or for its incumbent.",
            ("tier", "variant"),  # type: ignore[arg-type]  # as above
        )
        self._bad = Counter(
            "serve_app_variant_bad_ends",
            "Calls that ended badly at a variant, or at its incumbent, by signal.",
            ("tier", "variant", "signal"),  # type: ignore[arg-type]  # as above
        )

    def flush(self) -> None:
        """Hand the numbers to Ray."""
        for trial in self._read():
            for name, share in trial.shares.items():
                self._share.set(share, {"tier": trial.tier, "variant": name})
            for name in trial.out:
                tags = {"tier": trial.tier, "variant": name}
                self._share.set(0, tags)
                self._out.set(1, tags)
            for name in trial.shares:
                self._out.set(0, {"tier": trial.tier, "variant": name})
            self._count(trial)

    def _count(self, trial: TrialSeen) -> None:
        for name, tally in trial.tallies.items():
            variant = name or INCUMBENT
            tags = {"tier": trial.tier, "variant": variant}
            self._add(self._calls, tags, tally.calls)
            for signal, count in tally.bad.items():
                self._add(self._bad, {**tags, "signal": signal}, count)

    def _add(self, counter: Counter, tags: dict[str, str], total: int) -> None:
        """Add what is new; a new trial counts from 0 again."""
        key = tuple(tags.values())
        new = total - self._counted[key]
        if new < 0:
            new = total
        self._counted[key] = total
        if new:
            counter.inc(new, tags)
