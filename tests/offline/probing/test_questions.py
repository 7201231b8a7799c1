"""The parts of the demo's questions."""

from __future__ import annotations

from collections import Counter

from serve_app.offline.learning.groups import group_records
from serve_app.offline.probing.questions import Part, draw_questions


def test_no_part_repeats_the_test_part() -> None:
    """Neither a question nor a near-duplicate of one, so a fit has seen nothing that judges it."""
    questions = draw_questions(0.2)
    groups = group_records([q.text for q in questions], [""] * len(questions)).tolist()
    parts: dict[int, set[bool]] = {}
    for group, question in zip(groups, questions, strict=True):
        parts.setdefault(group, set()).add(question.part is Part.TEST)
    assert all(len(kinds) == 1 for kinds in parts.values())
    assert len({question.key for question in questions}) == len(questions)


def test_every_part_has_questions() -> None:
    """The same in every run, and the test part is complete."""
    questions = draw_questions(0.2)
    counts = Counter(question.part for question in questions)
    assert counts[Part.TEST] == 80
    assert min(counts.values()) > 40
    assert [q.text for q in questions] == [q.text for q in draw_questions(0.2)]
