"""Whether two answers say the same."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.feedback.compare import same
from serve_app.offline.demo.testset import draw_testset
from serve_app.offline.evaluate.checks import parse_check

LONG = "The city was founded long ago and has seen many rulers. " * 8

PIECES = st.sampled_from(
    (
        "42",
        "3 + 4 = 7",
        ", ",
        "; ",
        "not ",
        "Paris",
        "巴黎",
        "。",
        "\n",
        "{",
        '{"a": 1}',
        "-",
        "A",
        ".",
    )
)
TEXT = st.one_of(st.text(max_size=80), st.lists(PIECES, max_size=12).map("".join), st.just(LONG))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("Paris", " paris. "),
        ("４２", "42"),
        ("Paris.", "The capital of France is Paris."),
        ("北京", "中国的首都是北京。"),
        ("亚洲。", "廷布是不丹的首都。不丹在亚洲。"),
        ("= 7", "3 + 4 = 7"),
        ("8 * 9 = 72; 72 - 2 = 70", "70"),
        ("The answer is 1,234.", "So we get 1234"),
        ("She pays $12 for 3 apples each day. The total is 36 dollars.", "36"),
        ("1, 5, 9", "Sorted: 1 5 9."),
        ("1、5、9", "1, 5 and 9"),
        ('{"a": 1, "b": [true]}', '```json\n{"b": [true], "a": 1.0}\n```'),
        ("5 hours 30 minutes", "It takes 5 hours and 30 minutes."),
        ("1/2", "The probability is 1/2."),
        ("B", "B) the mitochondria"),
        ("Paris", LONG + "It is Paris."),
    ],
)
def test_the_same(a: str, b: str) -> None:
    """Style, working, separators and the sentence around a result do not count."""
    assert same(a, b) is True
    assert same(b, a) is True


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("Paris", "Lyon"),
        ("北京", "上海"),
        ("3 + 4 = 7", "3 + 4 = 8"),
        ("1, 5, 9", "1, 9, 5"),
        ("5, 9", "1, 5, 9"),
        ("9", "1, 5, 9"),
        ("-3", "3"),
        ("1/2", "3/2"),
        ("10:30", "11:30"),
        ("2024-01-05", "2023-01-05"),
        ("5 hours 30 minutes", "4 hours 30 minutes"),
        ("3小时20分", "2小时20分"),
        ('{"a": 1}', '{"a": true}'),
        ('{"a": 1}', '{"a": 1, "b": 2}'),
        ('{"a": 1}', "a is 1"),
        ("A", "B"),
        ("twelve", "12"),
    ],
)
def test_not_the_same(a: str, b: str) -> None:
    """Another result; a list is compared as a list, in its order."""
    assert same(a, b) is False
    assert same(b, a) is False


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("Paris", "It is not Paris"),
        ("能", "不能"),
        (LONG, LONG.replace("rulers", "kings")),
        (LONG + "It has 5 bridges, or so people say who have been there and counted all of them, "
         "and then those over the canals of the suburbs, which number 12.", LONG + "12"),
    ],
)  # fmt: skip
def test_nobody_knows(a: str, b: str) -> None:
    """One denies what the other says, or both are long: no label is better than a wrong one."""
    assert same(a, b) is None
    assert same(b, a) is None


@given(TEXT, TEXT)
def test_it_is_symmetric(a: str, b: str) -> None:
    """Neither answer is the first; and every answer says what it says itself."""
    assert same(a, b) is same(b, a)
    assert same(a, a) is True


def test_nesting_beyond_reason_is_no_error() -> None:
    """Deep JSON is answered with 'nobody knows' or a verdict, not with a crash."""
    a, b = "[" * 900 + "1" + "]" * 900, "[" * 900 + "2" + "]" * 900
    assert same(a, b) in (False, None)


def test_it_agrees_with_the_checks_of_the_demo() -> None:
    """Answers with and without their working are the same; another question's right answer is what
    the question's own check says of it."""
    questions = [item for item in draw_testset(51, share=0.3) if item.skill != "facts"]
    for question in questions:
        if question.short_answer:
            assert same(question.answer, question.short_answer), question
    pairs = [
        (question, other.answer)
        for question, other in pairwise(questions)
        if (question.skill, question.language) == (other.skill, other.language)
    ]
    wrong = [
        (question.answer, answer)
        for question, answer in pairs
        if same(question.answer, answer) is not parse_check(question.check.render()).passes(answer)
    ]
    assert len(wrong) <= 0.01 * len(pairs), wrong
