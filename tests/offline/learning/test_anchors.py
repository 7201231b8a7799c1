"""The prompts made by code."""

from __future__ import annotations

from serve_app.offline.learning.anchors import draw_anchors
from serve_app.routing.features import Language, extract_text_features


def test_they_are_many_different_and_always_the_same() -> None:
    """A recipe can be repeated: a seed gives the same prompts."""
    drawn = draw_anchors(1000)
    assert [r.text for r in drawn] == [r.text for r in draw_anchors(1000)]
    assert len({r.text for r in drawn}) == 1000
    assert {r.text for r in drawn} != {r.text for r in draw_anchors(1000, seed=1)}


def test_both_ends_in_both_languages() -> None:
    """Half everyday, half demanding; of each, half Chinese."""
    drawn = draw_anchors(400)
    for task, lead in (("everyday", 0.02), ("demanding", 0.2)):
        kind = [r for r in drawn if r.task == task]
        languages = [extract_text_features(r.text).language for r in kind]
        assert len(kind) == 200
        assert 80 <= languages.count(Language.CHINESE) <= 120
        assert {round(r.strong - r.fast, 2) for r in kind} == {lead}
