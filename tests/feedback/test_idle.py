"""Which tiers are idle, and the pauses between label calls."""

from __future__ import annotations

import asyncio

import pytest

from serve_app.core.load import TierLoad
from serve_app.feedback.idle import BACK_OFF_S_MAX, IdleTiers, Pauses
from tests.feedback.fakes import TalkingTier


class ReportedTier(TalkingTier):
    """A tier with the given load."""

    reported = TierLoad()

    def load(self) -> TierLoad:
        return self.reported


@pytest.mark.parametrize(
    ("load", "idle"),
    [
        (TierLoad(), True),
        (TierLoad(down=True), False),
        (TierLoad(ongoing=1), True),
        (TierLoad(ongoing=1, waiting=1), False),
        (TierLoad(ongoing=1, running=1, queued=0), True),
        (TierLoad(ongoing=1, running=1, queued=1), False),
    ],
)
async def test_own_label_calls_leave_a_tier_idle(load: TierLoad, *, idle: bool) -> None:
    """One label call of this Router runs on the tier; every further call is another's."""
    tier = ReportedTier()
    tier.reported = load
    assert IdleTiers({"strong": tier}).is_idle("strong", ours=1, ours_max=2) is idle


async def test_a_report_may_still_count_a_label_call_that_has_ended() -> None:
    """Until calls of other Routers were found: then every reported call is another's."""
    tier = ReportedTier()
    tier.reported = TierLoad(running=1, queued=0)
    tiers = IdleTiers({"strong": tier})
    assert not tiers.is_idle("strong", ours=0, ours_max=1)
    tiers.note_ended({"strong"})
    assert tiers.is_idle("strong", ours=0, ours_max=1)
    tiers.forget_ended()
    assert not tiers.is_idle("strong", ours=0, ours_max=1)


class Clock(asyncio.SelectorEventLoop):
    """An event loop whose time stands still until the test moves it."""

    now = 1000.0

    def time(self) -> float:
        return self.now


def test_pauses_double_up_to_a_bound() -> None:
    """A label ends the growth; a shorter pause never ends a longer pause."""
    clock = Clock()

    async def measure(pauses: Pauses) -> float:
        began = clock.now
        while not pauses.over:
            clock.now += 0.5
        return clock.now - began

    async def trial() -> None:
        pauses = Pauses(quiet_s=1.0)
        assert pauses.over
        lengths = []
        for _ in range(8):
            pauses.back_off()
            pauses.begin_quiet()
            lengths.append(await measure(pauses))
        assert lengths == [1, 2, 4, 8, 16, 32, BACK_OFF_S_MAX, BACK_OFF_S_MAX]
        pauses.reset()
        pauses.back_off()
        assert await measure(pauses) == 1

    try:
        clock.run_until_complete(trial())
    finally:
        clock.close()
