"""The trials of all tiers of a Router, and what Routers tell each other."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import pytest

from serve_app.config.variants import TierVariantsConfig, VariantConfig
from serve_app.core.errors import UpstreamFailed
from serve_app.variants.trials import RouterReport, Trials, merge_reports
from tests.fakes import FakeTier
from tests.variants.samples import make_deadlines, make_request

VARIANTS = [VariantConfig(tier="fast", name="next")]
HALF = {"fast": TierVariantsConfig(shares={"next": 0.5})}


class Routers:
    """Routers in one process, which ask each other directly."""

    def __init__(self, names: Sequence[str]) -> None:
        self.tiers = {name: FakeTier() for name in ("fast", "strong", "fast--next")}
        self.all = [Trials(self.tiers, VARIANTS, name, self.ask, share_s=0.001) for name in names]
        self.asked = 0

    async def ask(self) -> list[RouterReport]:
        self.asked += 1
        return [trials.report() for trials in self.all]

    def configure(self, configs: Any) -> None:
        for trials in self.all:
            trials.configure(configs)

    async def send(self, router: int, calls: int) -> None:
        tier = self.all[router].tiers["fast"]
        for number in range(calls):
            deadlines = make_deadlines(asyncio.get_running_loop().time())
            async with tier.exchange(make_request(number), deadlines) as answer:
                await answer.read()

    async def close(self) -> None:
        for trials in self.all:
            await trials.close()


def is_out(trials: Trials) -> bool:
    return bool(trials.trials[0].out)


async def wait_until(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


async def test_tiers_without_variants_are_left_alone() -> None:
    """The pipeline gets the tiers' own names, and no name of a variant."""
    routers = Routers(["one"])
    assert routers.all[0].tiers.keys() == {"fast", "strong"}
    assert routers.all[0].tiers["strong"] is routers.tiers["strong"]
    await routers.close()


async def test_nobody_is_asked_without_a_variant_on_trial() -> None:
    """The Routers share nothing until a variant has a share, and stop when it has none."""
    routers = Routers(["one"])
    routers.configure({})
    await asyncio.sleep(0.01)
    assert routers.asked == 0
    routers.configure(HALF)
    await wait_until(lambda: routers.asked)
    routers.configure({})
    await wait_until(lambda: routers.all[0]._sharing is None)
    await routers.close()


async def test_a_rollback_reaches_every_router(caplog: pytest.LogCaptureFixture) -> None:
    """One Router sees the faults; each logs the rollback once."""
    routers = Routers(["one", "two"])
    routers.configure(HALF)
    routers.tiers["fast--next"].answer = UpstreamFailed()
    with caplog.at_level(logging.ERROR, "ray.serve"):
        await routers.send(0, 100)
        await wait_until(lambda: all(map(is_out, routers.all)))
        await routers.close()
        for trials in routers.all:
            trials.tell()
    assert [record.message for record in caplog.records] == [
        "variant next of fast is rolled back: it is worse than its incumbent (faults)"
    ] * 2


async def test_feedback_may_reach_another_router() -> None:
    """The Router that has had the call counts it."""
    routers = Routers(["one", "two"])
    routers.configure(HALF)
    await routers.send(0, 100)
    for number in range(100):
        if routers.all[0].trials[0]._ended[f"call-{number}"].variant:
            routers.all[1].hear(f"call-{number}", right=False)
    await wait_until(lambda: all(map(is_out, routers.all)))
    assert set(routers.all[1].trials[0].out.values()) == {"disliked"}
    await routers.close()


async def test_a_new_trial_forgets_a_rollback() -> None:
    """The operator has mended the variant and writes a new text."""
    routers = Routers(["one"])
    routers.configure(HALF)
    routers.tiers["fast--next"].answer = UpstreamFailed()
    await routers.send(0, 100)
    assert is_out(routers.all[0])
    routers.configure(HALF)
    assert is_out(routers.all[0])
    routers.configure({"fast": TierVariantsConfig(shares={"next": 0.5}, trial="2")})
    assert not is_out(routers.all[0])
    state = merge_reports([trials.report() for trials in routers.all])["fast"]
    assert state.shares == {"": 0.5, "next": 0.5}
    assert state.tallies == {}
    await routers.close()


async def test_routers_that_do_not_answer_stop_nothing() -> None:
    """The own evidence counts on, and the next second asks again."""
    asked = 0

    async def fail() -> list[RouterReport]:
        nonlocal asked
        asked += 1
        raise TimeoutError

    tiers = {name: FakeTier() for name in ("fast", "fast--next")}
    trials = Trials(tiers, VARIANTS, "one", fail, share_s=0.001)
    trials.configure(HALF)
    await wait_until(lambda: asked > 2)
    await trials.close()
