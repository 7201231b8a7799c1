"""The making of one label: which tier is asked, and what its answer is worth."""

from __future__ import annotations

import json
from typing import Any

import pytest

from serve_app.config.runtime import RuntimeConfig
from serve_app.config.tiers import TierConfig
from serve_app.core.call import Endpoint, Turn
from serve_app.core.errors import UpstreamFailed
from serve_app.feedback.label_maker import LabelMaker, NoLabel
from serve_app.feedback.sample import Label, Sample
from serve_app.feedback.sampling import TierPair
from serve_app.feedback.tally import Fate
from tests.feedback.fakes import TalkingTier

PAIR = TierPair(
    TierConfig(name="fast", model_id="demo-fast"), TierConfig(name="strong", model_id="demo-strong")
)
DIFFERENT = Label(0.0, 1.0, "match", same=False)


def sample(answer: str = "42", *, asks: str = "strong") -> Sample:
    body = json.dumps({"messages": [{"role": "user", "content": "a"}]}).encode()
    turns = (Turn("user", "a"),)
    return Sample("a", Endpoint.CHAT, turns, answer, asks, asks == "strong", body)


class Bench:
    """A maker of labels between two talking tiers."""

    def __init__(self, compare: str = "match") -> None:
        self.fast, self.strong = TalkingTier(), TalkingTier()
        feedback = {"directory": "/feedback", "compare": compare}
        runtime = RuntimeConfig.model_validate({"feedback": feedback})
        self.maker = LabelMaker(PAIR, {"fast": self.fast, "strong": self.strong}, runtime)

    async def fate(self, sample: Sample) -> Fate:
        """The reason why the sample has no label."""
        with pytest.raises(NoLabel) as caught:
            await self.maker.make(sample)
        return caught.value.fate


@pytest.mark.parametrize("asks", ["strong", "fast"])
async def test_of_different_answers_the_strongest_is_right(asks: str) -> None:
    """Whichever of the two tiers the client's answer came from; only the other tier is asked."""
    bench = Bench()
    bench.strong.say = bench.fast.say = lambda body: "41"
    assert await bench.maker.make(sample(asks=asks)) == DIFFERENT
    counts = {"strong": len(bench.strong.requests), "fast": len(bench.fast.requests)}
    assert counts == {"strong": 0, "fast": 0, asks: 1}


@pytest.mark.parametrize(
    ("said", "fate"),
    [(" ", Fate.NO_TEXT), ("long " * 2000, Fate.TOO_LONG), ("x " * 3000, Fate.UNDECIDED)],
)
async def test_answers_without_a_label(said: str, fate: Fate) -> None:
    """The error holds the reason, which the labeller counts."""
    bench = Bench()
    bench.strong.say = lambda body: said
    assert await bench.fate(sample("other words " * 50)) is fate


async def test_an_engine_that_refuses_gives_no_label() -> None:
    """Another try would be refused too."""
    bench = Bench()
    bench.strong.status = 400
    assert await bench.fate(sample()) is Fate.REFUSED


async def test_an_answer_is_asked_for_once() -> None:
    """A sample whose verdict failed keeps the other tier's answer for the next try."""
    bench = Bench("judge")
    bench.fast.say = lambda body: "41"
    bench.strong.errors = [UpstreamFailed()]
    stopped = sample(asks="fast")
    with pytest.raises(UpstreamFailed):
        await bench.maker.make(stopped)
    bench.strong.say = lambda body: '{"a_right": true, "b_right": true}'
    assert await bench.maker.make(stopped) == Label(1.0, 1.0, "judge", same=False)
    assert len(bench.fast.requests) == 1


async def test_the_judge_is_not_asked_about_equal_answers() -> None:
    """Equal answers are both right."""
    bench = Bench("judge")
    assert await bench.maker.make(sample(asks="fast")) == Label(1.0, 1.0, "match", same=True)
    assert not bench.strong.requests


async def test_the_judge_decides_between_different_answers() -> None:
    """Both may be wrong; a verdict in another form than the requested form is none."""
    bench = Bench("judge")
    bench.fast.say = lambda body: "41"
    bench.strong.say = lambda body: '{"a_right": false, "b_right": false}'
    assert await bench.maker.make(sample(asks="fast")) == Label(0.0, 0.0, "judge", same=False)
    assert len(bench.strong.requests) == 2
    bench.strong.say = lambda body: "Both are fine."
    assert await bench.fate(sample(asks="fast")) is Fate.BAD_VERDICT


async def test_a_judge_that_prefers_a_place_gives_no_label() -> None:
    """The answers change places, and the verdict must change with them."""
    bench = Bench("judge")
    bench.fast.say = lambda body: "41"
    bench.strong.say = lambda body: '{"a_right": true, "b_right": false}'
    assert await bench.fate(sample(asks="fast")) is Fate.UNDECIDED
    bench.strong.say = prefers_42
    assert await bench.maker.make(sample(asks="fast")) == Label(0.0, 1.0, "judge", same=False)


def prefers_42(body: dict[str, Any]) -> str:
    """A judge that goes by what the answers say."""
    material = json.loads(body["messages"][1]["content"])
    a, b = (material[key] == "42" for key in ("answer_a", "answer_b"))
    return json.dumps({"a_right": a, "b_right": b})


def test_a_judge_occupies_the_strongest_tier_too() -> None:
    """The tiers that must be idle before a label is made."""
    assert Bench().maker.tiers_of(sample(asks="fast")) == {"fast"}
    assert Bench("judge").maker.tiers_of(sample(asks="fast")) == {"fast", "strong"}
