"""Conversations and their rules of stickiness, without engines."""

from __future__ import annotations

import numpy as np

from serve_app.offline.probing.conversations import (
    KINDS,
    RULES,
    TURNS,
    choose_share,
    count_switches,
    draw_conversations,
    measure_rules,
)
from serve_app.offline.probing.conversations_command import build_grids
from serve_app.routing.weights import read_weights

WEIGHTS = read_weights()


def test_a_turn_holds_all_turns_before_it() -> None:
    """The history is questions and right answers, and the last turn is the user's."""
    for conversation in draw_conversations(4):
        assert len(conversation.questions) == TURNS
        for earlier, later in zip(
            conversation.questions[:-1], conversation.questions[1:], strict=True
        ):
            assert later.turns[: len(earlier.turns)] == earlier.turns
            assert later.turns[len(earlier.turns)].role == "assistant"
            assert later.turns[-1].role == "user"


def test_one_topic_is_one_skill() -> None:
    """Where the kind says so, and in one language everywhere."""
    for conversation in draw_conversations(4):
        skills = {question.skill for question in conversation.questions}
        assert len({question.language for question in conversation.questions}) == 1
        assert len(skills) == 1 or "topic" not in conversation.kind


def test_the_rules() -> None:
    """Sticky scores never fall, the first turn's never move, and inherited scores are no lower."""
    conversation = draw_conversations(2)[-1]
    scores = {name: rule(WEIGHTS, conversation.questions) for name, rule in RULES.items()}
    alone, placed, served, sticky, first = scores.values()
    assert sticky == [max(alone[: place + 1]) for place in range(TURNS)]
    assert first == [alone[0]] * TURNS
    assert all(own <= given + 1e-6 for own, given in zip(placed, served, strict=True))
    assert alone[0] == placed[0] == served[0]


def test_a_share_and_its_switches() -> None:
    """The highest scores are strong; a conversation that never changes has no switch."""
    strong = choose_share(np.array([[0.9, 0.1], [0.8, 0.7]]), 0.5)
    assert strong.tolist() == [[True, False], [True, False]]
    assert [count_switches(row) for row in ([True, False, True], [True, True])] == [2, 0]


def test_rules_are_compared_at_one_share() -> None:
    """Where only strong is right, accuracy is the share; the first turn's rule never switches."""
    drawn = draw_conversations(8)
    rights = {question.key: (False, True) for c in drawn for question in c.questions}
    kept = list(measure_rules(drawn, rights, WEIGHTS, 0.5))
    assert [each.right for each in kept] == [0.5] * len(RULES)
    assert {each.strong_ratio for each in kept} == {0.5}
    assert kept[-1].switches < kept[0].switches
    assert set(kept[0].by_kind) == set(KINDS)


def test_a_table_for_each_share_and_weights() -> None:
    """A row for each rule."""
    drawn = draw_conversations(2)
    rights = {question.key: (True, True) for c in drawn for question in c.questions}
    grids = list(build_grids(drawn, rights, {"shipped": WEIGHTS}))
    assert [len(grid.rows) for grid in grids] == [len(RULES)] * 2
    assert all(len(row) == len(grid.header) for grid in grids for row in grid.rows)
