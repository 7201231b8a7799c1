"""The numbers of this Router, for itself and for the other Routers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from serve_app.core.call import Record
from serve_app.core.load import TierLoad
from serve_app.pages.counting import CallCounts
from serve_app.pages.numbers import EngineNumbers, RouterNumbers, RoutingNumbers, TierNumbers
from serve_app.pipeline import Pipeline

WATCH_S = 5.0
"""How long after the last question for the numbers waits are still measured."""


class WatchedTier(Protocol):
    """A tier whose engines can be watched."""

    @property
    def open_leases(self) -> int:
        """Places held on the tier's replicas."""
        ...

    def load(self) -> TierLoad:
        """The known load of the tier at this moment."""
        ...

    def watch(self, *, on: bool) -> None:
        """Measure waits from now on, whether or not the config asks for it."""
        ...

    def engine_reports(self) -> Sequence[tuple[str, int, int, float | None]]:
        """Address, running and queued calls and the used part of the KV cache of each engine that
        has reported lately."""
        ...


class OwnNumbers:
    """Counts this Router's calls, and reads its numbers when somebody watches."""

    def __init__(
        self,
        router: str,
        pipeline: Pipeline,
        tiers: Mapping[str, WatchedTier],
        counts: Callable[[], CallCounts] = CallCounts,
    ) -> None:
        self._router = router
        self._pipeline = pipeline
        self._tiers = tiers
        self._counts = counts()
        self._unwatch: asyncio.TimerHandle | None = None

    def settle(self, record: Record) -> None:
        """Let the pipeline settle an ended call, and count the call."""
        self._pipeline.settle(record)
        if self._pipeline.runtime.pages.dashboard:
            self._counts.add(record)

    def read(self) -> RouterNumbers:
        """The numbers at this moment. Waits are measured from now on, for some seconds."""
        self._watch()
        prices = self._pipeline.steps.prices
        return RouterNumbers(
            router=self._router,
            started_at=self._counts.started_at,
            in_flight=self._pipeline.in_flight,
            totals=self._counts.totals,
            tiers={name: read_tier(tier) for name, tier in self._tiers.items()},
            steps=self._counts.steps(),
            routing=self._read_routing(),
            slowest=self._counts.slowest(),
            currency=None if prices is None else prices.currency,
        )

    def close(self) -> None:
        """Watch no engine any more."""
        if self._unwatch is not None:
            self._unwatch.cancel()
            self._end_watch()

    def _read_routing(self) -> RoutingNumbers:
        control, scores = self._pipeline.control_state(), self._pipeline.scores()
        fixed = self._pipeline.runtime.routing.strong_score_min
        return RoutingNumbers(
            threshold=fixed if control is None else control.threshold,
            target=None if control is None else control.target,
            drift=scores.drift,
            drifting=scores.drifting,
        )

    def _watch(self) -> None:
        if self._unwatch is None:
            for tier in self._tiers.values():
                tier.watch(on=True)
        else:
            self._unwatch.cancel()
        self._unwatch = asyncio.get_running_loop().call_later(WATCH_S, self._end_watch)

    def _end_watch(self) -> None:
        self._unwatch = None
        for tier in self._tiers.values():
            tier.watch(on=False)


def read_tier(tier: WatchedTier) -> TierNumbers:
    """What this Router knows of a tier."""
    engines = [EngineNumbers(*report) for report in tier.engine_reports()]
    return TierNumbers(tier.load(), tier.open_leases, engines)
