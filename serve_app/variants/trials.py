"""The trials of all tiers of one Router, which it shares with the other Routers."""

from __future__ import annotations

import asyncio
import copy
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass, replace

from serve_app.config.variants import TierVariantsConfig, VariantConfig
from serve_app.leases.tier import Tier
from serve_app.variants.tier import VariantTier
from serve_app.variants.trial import Tally, Trial, TrialReport

logger = logging.getLogger("ray.serve")

SHARE_S = 1.0
"""How often the Routers tell each other what they have seen, while a variant is on trial."""
DISLIKED_MAX = 256
"""Newest judgements that the other Routers are told of, because they may have had the calls."""
NO_VARIANTS = TierVariantsConfig()


@dataclass(frozen=True, slots=True)
class RouterReport:
    """What one Router knows of all its trials, by tier."""

    router: str
    trials: Mapping[str, TrialReport]
    disliked: Sequence[str] = ()
    """The ids of the answers that this Router was lately told to be wrong."""


Ask = Callable[[], Awaitable[Sequence[RouterReport]]]


class Trials:
    """The tiers as the pipeline uses them: those that have variants draw for each call."""

    def __init__(
        self,
        tiers: Mapping[str, Tier],
        variants: Sequence[VariantConfig],
        router: str,
        ask: Ask,
        *,
        share_s: float = SHARE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`tiers` holds the tiers and the variants by the names under which they are deployed.
        `ask` asks every Router for its report."""
        self._router = router
        self._ask = ask
        self._share_s = share_s
        self._clock = clock
        self._sharing: asyncio.Task[None] | None = None
        self._told: set[tuple[str, str]] = set()
        self._disliked: deque[str] = deque(maxlen=DISLIKED_MAX)
        of_tier: dict[str, dict[str, Tier]] = {}
        for variant in variants:
            own = of_tier.setdefault(variant.tier, {})
            own[variant.name] = tiers[variant.deployed_name]
        deployed = {variant.deployed_name for variant in variants}
        self._drawing = {
            name: VariantTier(tiers[name], own, Trial(name, NO_VARIANTS, clock))
            for name, own in of_tier.items()
        }
        self.tiers: dict[str, Tier] = {
            name: self._drawing.get(name, tier)
            for name, tier in tiers.items()
            if name not in deployed
        }

    def configure(self, configs: Mapping[str, TierVariantsConfig]) -> None:
        """Take new shares. A new text of `trial` begins a new trial."""
        for name, tier in self._drawing.items():
            config = configs.get(name, NO_VARIANTS)
            if config.trial == tier.trial.config.trial:
                tier.trial.configure(config)
            else:
                tier.trial = Trial(name, config, self._clock)
                self._told = {told for told in self._told if told[0] != name}
        self.start()

    def start(self) -> None:
        """Share with the other Routers from now on, as long as a variant is on trial."""
        if self._sharing is None and self._on_trial():
            with suppress(RuntimeError):  # There is no event loop yet; the Router starts it later.
                loop = asyncio.get_running_loop()
                self._sharing = loop.create_task(self._share(), context=Context())

    def _on_trial(self) -> bool:
        return any(any(tier.trial.config.shares.values()) for tier in self._drawing.values())

    def hear(self, request_id: str, *, right: bool) -> None:
        """An application has judged an answer, of this Router or of another one."""
        if not right:
            self._disliked.append(request_id)
        for tier in self._drawing.values():
            tier.trial.note_feedback(request_id, right=right)

    def report(self) -> RouterReport:
        """What this Router knows of its trials."""
        trials = {name: tier.trial.report() for name, tier in self._drawing.items()}
        return RouterReport(self._router, trials, tuple(self._disliked))

    @property
    def trials(self) -> list[Trial]:
        """The trials of this Router."""
        return [tier.trial for tier in self._drawing.values()]

    async def _share(self) -> None:
        try:
            while self._on_trial():
                await asyncio.sleep(self._share_s)
                try:
                    self._merge(await self._ask())
                except Exception as error:
                    logger.debug("the other Routers' trials are not known", exc_info=error)
                self.tell()
        finally:
            self._sharing = None

    def _merge(self, reports: Sequence[RouterReport]) -> None:
        for report in reports:
            if report.router != self._router:
                self._merge_one(report)

    def _merge_one(self, report: RouterReport) -> None:
        for name, tier in self._drawing.items():
            for request_id in report.disliked:
                tier.trial.note_feedback(request_id, right=False)
            if name in report.trials:
                tier.trial.merge(report.router, report.trials[name])

    def tell(self) -> None:
        """Log each rollback once."""
        for name, tier in self._drawing.items():
            for variant, why in tier.trial.out.items():
                if (name, variant) not in self._told:
                    self._told.add((name, variant))
                    logger.error(
                        "variant %s of %s is rolled back: it is worse than its incumbent (%s)",
                        variant,
                        name,
                        why,
                    )

    async def close(self) -> None:
        """Stop sharing, and end the shadow calls."""
        if self._sharing is not None:
            self._sharing.cancel()
            await asyncio.gather(self._sharing, return_exceptions=True)
        for tier in self._drawing.values():
            await tier.close()


def merge_reports(reports: Sequence[RouterReport]) -> dict[str, TrialReport]:
    """What the Routers know together, by tier. The evidence is left out."""
    merged: dict[str, TrialReport] = {}
    for report in reports:
        for tier, trial in report.trials.items():
            so_far = merged.get(tier)
            if so_far is None or so_far.trial != trial.trial:
                merged[tier] = replace(trial, products={}, tallies=copy.deepcopy(trial.tallies))
                continue
            tallies = dict(so_far.tallies)
            for name, tally in trial.tallies.items():
                tallies.setdefault(name, Tally()).add(tally)
            merged[tier] = replace(so_far, out={**so_far.out, **trial.out}, tallies=tallies)
    return merged
