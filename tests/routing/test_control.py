"""Holding the share of strong calls, whatever comes."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.config.runtime import RoutingConfig
from serve_app.core.call import Decision, Prompt, Prospect, Reason, Turn
from serve_app.routing.control import GAIN, ShareController, ThresholdControl
from serve_app.routing.drift import SCORES_MIN, ScoreWindow
from serve_app.routing.scorer import HeuristicScorer
from tests.routing.prompts import EASY_EN, EASY_ZH, HARD_EN, HARD_ZH

Draw = Callable[[random.Random], float]


def easy(chance: random.Random) -> float:
    return chance.betavariate(2, 8)


def hard(chance: random.Random) -> float:
    return chance.betavariate(8, 2)


def mixed(chance: random.Random) -> float:
    return (easy if chance.random() < 0.6 else hard)(chance)


def alike(chance: random.Random) -> float:
    """Three in four calls are one and the same prompt."""
    return 0.1824 if chance.random() < 0.75 else mixed(chance)


def config(target: float | None = 0.3, **routing: object) -> RoutingConfig:
    return RoutingConfig.model_validate({"strong_ratio_target": target, **routing})


def stream(controller: ShareController, scores: Sequence[float]) -> list[bool]:
    """Which of the calls were strong."""
    outcomes = []
    for score in scores:
        outcomes.append(score >= controller.threshold)
        controller.note(score)
    return outcomes


def shares(outcomes: Sequence[bool], size: int, step: int = 50) -> Iterator[float]:
    """The share of strong calls in every window of this size."""
    for start in range(0, len(outcomes) - size + 1, step):
        yield sum(outcomes[start : start + size]) / size


@pytest.mark.parametrize("target", [0.1, 0.3, 0.5, 0.8])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_share_holds_while_the_traffic_changes(target: float, seed: int) -> None:
    """Easy, hard, mixed, monotonous and easy again: every 500 calls are within 3 points.

    Only the first 500 calls of a new kind are left out; with them it is every 1,200 calls.
    """
    chance = random.Random(seed)
    controller = ShareController(config(target))
    settled, every = [], []
    for draw in (easy, hard, mixed, alike, easy):
        outcomes = stream(controller, [draw(chance) for _ in range(2500)])
        settled += shares(outcomes[500:], 500)
        every += outcomes
    assert max(abs(share - target) for share in settled) <= 0.03
    assert max(abs(share - target) for share in shares(every[SCORES_MIN:], 1200)) <= 0.03


def test_the_share_holds_while_the_mix_slides() -> None:
    """Traffic that grows harder call by call is followed without a pause."""
    chance = random.Random(4)
    scores = [(hard if chance.random() < n / 6000 else easy)(chance) for n in range(6000)]
    outcomes = stream(ShareController(config()), scores)
    assert max(abs(share - 0.3) for share in shares(outcomes[SCORES_MIN + 500 :], 500)) <= 0.03


def test_the_share_holds_for_real_prompts() -> None:
    """With the heuristic's scores of everyday prompts, then hard ones, then both."""
    chance, scorer = random.Random(5), HeuristicScorer()
    easy_scores, hard_scores = (
        [scorer.score(Prompt((Turn("user", text),))) for text in texts]
        for texts in (EASY_EN + EASY_ZH, HARD_EN + HARD_ZH)
    )
    controller = ShareController(config(0.4))
    for pool in (easy_scores, hard_scores, easy_scores + hard_scores):
        outcomes = stream(controller, chance.choices(pool, k=2000))
        assert max(abs(share - 0.4) for share in shares(outcomes[500:], 500)) <= 0.03


@given(
    target=st.floats(0, 1),
    scores=st.lists(st.floats(0, 1) | st.sampled_from([0.2, 0.5]), min_size=1, max_size=60),
    repeats=st.integers(1, 40),
)
def test_no_sequence_can_push_the_share_away(
    target: float, scores: list[float], repeats: int
) -> None:
    """Whatever the scores, the strong calls of any stretch miss the target by 1 / GAIN at most."""
    controller = ShareController(config(target), ScoreWindow(500, [0.5] * SCORES_MIN))
    owed = [0.0]
    for strong in stream(controller, scores * repeats):
        owed.append(owed[-1] + target - strong)
    assert max(owed) - min(owed) <= 1 / GAIN + 3


def test_the_configured_threshold_holds_at_first() -> None:
    """A Router that has seen nothing yet has no quantile to go by."""
    controller = ShareController(config(strong_score_min=0.62))
    for _ in range(SCORES_MIN - 1):
        controller.note(0.1)
        assert controller.threshold == 0.62
    controller.note(0.1)
    assert controller.threshold < 0.62


@pytest.mark.parametrize("target", [0, 1])
def test_all_and_none_hold_from_the_first_call_on(target: float) -> None:
    """They need no score to go by."""
    controller = ShareController(config(target))
    chance = random.Random(10)
    assert (
        stream(controller, [0.0, 1.0, *(mixed(chance) for _ in range(100))]) == [target == 1] * 102
    )


def test_bounds_hold_against_a_flood() -> None:
    """A flood of easy calls does not go strong, a flood of hard ones does, for the share's sake."""
    chance = random.Random(6)
    controller = ShareController(config(0.3, strong_score_min_bounds=[0.3, 0.9]))
    stream(controller, [mixed(chance) for _ in range(1000)])
    floods = {score: stream(controller, [score] * 5000)[-1000:] for score in (0.1, 0.95)}
    assert (sum(floods[0.1]), sum(floods[0.95])) == (0, 1000)
    outcomes = stream(controller, [mixed(chance) for _ in range(2000)])
    assert max(abs(share - 0.3) for share in shares(outcomes[1000:], 500)) <= 0.03


def test_calls_that_are_too_long_count_for_the_share() -> None:
    """One call in ten goes strong for its length: the score lets so many fewer go."""
    chance = random.Random(7)
    controller = ShareController(config(0.3))
    outcomes = []
    for number in range(4000):
        if number % 10 == 0:
            outcomes.append(True)
            controller.note_unscored(strong=True)
        else:
            outcomes += stream(controller, [mixed(chance)])
    assert max(abs(share - 0.3) for share in shares(outcomes[1000:], 500)) <= 0.03


def test_drift_begins_and_ends() -> None:
    """New traffic is drift until it has stayed as it is; then it is what is usual."""
    chance = random.Random(8)
    controller = ShareController(config(0.3, strong_ratio_window=500))
    seen = []
    for draw in (easy, hard):
        for _ in range(6):
            stream(controller, [draw(chance) for _ in range(500)])
            seen.append(controller.state.drifting)
    assert seen == [False] * 6 + [True] + [False] * 5
    assert controller.state.drift is not None
    assert controller.state.drift < 0.1


def test_steady_traffic_is_no_drift() -> None:
    """Chance alone does not trip the index, at the smallest window either."""
    for seed in range(20):
        chance = random.Random(seed)
        controller = ShareController(config(0.3, strong_ratio_window=200))
        for _ in range(10):
            stream(controller, [mixed(chance) for _ in range(200)])
            assert not controller.state.drifting
        assert controller.state.drift is not None


def decision(score: float | None, reason: Reason = Reason.SIMPLE, tier: str = "fast") -> Decision:
    return Decision(tier, f"Qwen/{tier}", reason, score)


def test_only_what_the_score_or_the_length_decides_feeds_the_controller() -> None:
    """Calls that name their tier, and those of a fixed rule, leave the threshold alone."""
    control, routing = ThresholdControl(), config()
    control.note(decision(0.1), routing, "strong")
    control.note(decision(None, Reason.PROMPT_TOO_LONG, "strong"), routing, "strong")
    for reason in (Reason.MODEL, Reason.HEADER, Reason.POLICY, Reason.NO_GENERATION):
        control.note(decision(None, reason, "strong"), routing, "strong")
    state = control.state(routing)
    assert state is not None
    assert (state.calls, state.share) == (2, 0.5)


def test_a_fixed_threshold_needs_no_controller() -> None:
    """Without a target the configured threshold holds, whatever is fed."""
    control, routing = ThresholdControl(), config(None, strong_score_min=0.42)
    for _ in range(200):
        control.note(decision(0.9), routing, "strong")
    assert control.threshold(routing) == 0.42
    assert control.state(routing) is None


@pytest.mark.parametrize("target", [None, 0.3])
def test_drift_is_told_with_a_fixed_threshold_too(target: float | None) -> None:
    """What the threshold was calibrated on may be traffic of the past, held share or not."""
    chance, control, routing = random.Random(8), ThresholdControl(), config(target)
    seen = []
    for draw in (easy, easy, hard):
        for _ in range(routing.strong_ratio_window):
            control.note(decision(draw(chance)), routing, "strong")
        seen.append(control.scores(routing).drifting)
    assert seen == [False, False, True]
    assert (control.scores(routing).drift or 0) > 0.25


def test_another_scorer_is_no_drift() -> None:
    """Its scores are others, whatever the traffic; another threshold changes no score."""
    chance, control = random.Random(8), ThresholdControl()
    learned, other = config(None), config(None, strong_score_min=0.6)
    for routing in (learned, other):
        for _ in range(500):
            control.note(decision(easy(chance)), routing, "strong")
    heuristic = config(None, scorer="heuristic", strong_score_min=0.6)
    assert control.scores(other).drift is not None
    assert control.scores(heuristic).drift is None
    for _ in range(1000):
        control.note(decision(hard(chance)), heuristic, "strong")
    assert not control.scores(heuristic).drifting


def test_a_new_target_knows_the_scores_of_the_old_one() -> None:
    """After a change of the config the threshold moves at once, and other keys leave it alone."""
    chance, control = random.Random(9), ThresholdControl()
    first = config(0.3)
    for _ in range(1000):
        control.note(decision(chance.random()), first, "strong")
    assert control.threshold(first) == pytest.approx(0.7, abs=0.1)
    assert control.threshold(config(0.1)) == pytest.approx(0.9, abs=0.05)
    kept = control.threshold(config(0.1, fast_prompt_tokens_max=10))
    assert kept == control.threshold(config(0.1))


def test_the_threshold_strays_little_from_the_quantile() -> None:
    """The count of calls is corrected gently: the level stays within five of its deviations."""
    chance = random.Random(11)
    controller = ShareController(config(0.3))
    stream(controller, [chance.random() for _ in range(1000)])
    deviation = (GAIN * 0.3 * 0.7 / 2) ** 0.5
    for _ in range(1000):
        controller.note(chance.random())
        assert controller.threshold == pytest.approx(0.7, abs=5 * deviation)


@pytest.mark.parametrize(
    ("target", "flood", "bound", "then"), [(0.9, 0.95, 0.9, 0.5), (0.1, 0.1, 0.3, 0.5)]
)
def test_a_bound_that_holds_the_threshold_causes_no_debt(
    target: float, flood: float, bound: float, then: float
) -> None:
    """After a flood the share follows the new calls at once, and does not make up for the flood."""
    controller = ShareController(config(target, strong_score_min_bounds=[0.3, 0.9]))
    stream(controller, [flood] * 2000)
    assert controller.threshold == bound
    stream(controller, [then] * 10)
    assert controller.threshold == pytest.approx(then)


def test_the_share_is_that_of_the_newest_calls() -> None:
    """It is unknown before the first call, and calls beyond the window do not count."""
    controller = ShareController(config(0.3, strong_ratio_window=200))
    assert (controller.state.share, controller.state.calls) == (None, 0)
    chance = random.Random(12)
    outcomes = stream(controller, [chance.random() for _ in range(517)])
    assert controller.state.share == sum(outcomes[-200:]) / 200
    assert controller.state.calls == 200


@pytest.mark.parametrize(
    ("target", "threshold"),
    [
        (0.0199, math.nextafter(1.0, 2.0)),
        (0.02, math.nextafter(0.9, 1.0)),
        (0.05, 0.9),
        (0.1, 0.9),
        (0.2, math.nextafter(0.5, 1.0)),
        (0.3, math.nextafter(0.5, 1.0)),
        (0.36, 0.5),
        (0.6, 0.5),
        (0.7, math.nextafter(0.1, 1.0)),
    ],
)
def test_equal_scores_go_where_the_share_is_closer(target: float, threshold: float) -> None:
    """Of 50 scores the 5 highest are equal, and so are the 25 next and the 20 lowest."""
    window = ScoreWindow(500, [0.1] * 20 + [0.5] * 25 + [0.9] * 5)
    assert ShareController(config(target), window).threshold == threshold


def test_a_draft_is_not_decided_by_the_threshold() -> None:
    """So it does not count for the share."""
    control, routing = ThresholdControl(), config()
    control.note(decision(0.9, Reason.DRAFT), routing, "strong")
    state = control.state(routing)
    assert state is not None
    assert state.calls == 0


def test_a_config_that_leaves_scores_alone_forgets_none() -> None:
    """The usual distribution stays known when another key changes."""
    chance, control = random.Random(13), ThresholdControl()
    before, after = config(None), config(None, strong_score_min=0.6)
    for _ in range(before.strong_ratio_window):
        control.note(decision(easy(chance)), before, "strong")
    assert control.scores(before).drift is not None
    assert control.scores(after).drift is not None


def test_what_an_objective_chooses_does_not_count_for_the_share() -> None:
    """Its scores still show a drift; with an objective for all calls no threshold is moved."""
    control, routing = ThresholdControl(), config()
    prospects = (Prospect("strong", 0.9, 1.0, 1.0),)
    control.note(replace(decision(0.9, Reason.COST), prospects=prospects), routing, "strong")
    state = control.state(routing)
    assert state is not None
    assert state.calls == 0
    assert control.scores(routing).newest == (0.9,)
    assert control.state(config(objective="quality")) is None
