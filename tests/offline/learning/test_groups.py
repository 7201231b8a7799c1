"""Which records are too much alike to be judged apart."""

from __future__ import annotations

from serve_app.offline.learning.groups import group_records

SENTENCE = (
    "A farmer has seventeen sheep and all but nine of them run away in the night, how many are left"
)


def test_near_duplicates_share_a_number() -> None:
    """Case, spaces and a changed word make no new question."""
    texts = [
        SENTENCE,
        SENTENCE.upper() + " ",
        SENTENCE + " now?",
        "What is the boiling point of water at the top of a high mountain?",
    ]
    numbers = group_records(texts, [""] * 4)
    assert numbers[0] == numbers[1] == numbers[2] != numbers[3]


def test_a_named_group_stays_together() -> None:
    """Whatever the texts are; no name is no group."""
    numbers = group_records(["one", "two", "three", "four"], ["x", "x", "", ""])
    assert numbers[0] == numbers[1]
    assert len(set(numbers.tolist())) == 3


def test_a_template_makes_no_duplicates() -> None:
    """What many records begin with does not tie them together; what they ask does."""
    head = "You are given a question from a customer of the bank. Answer politely and briefly. "
    asked = [
        f"Question {n}: why was account {n * 7919} of branch {n * 31} closed on day {n}?"
        for n in range(200)
    ]
    numbers = group_records([head + text for text in [*asked, asked[0]]], [""] * 201)
    assert len(set(numbers.tolist())) > 100
    assert numbers[0] == numbers[200]


def test_chinese_needs_no_spaces() -> None:
    """Characters stand for words."""
    one = "请解释一下为什么利率上升的时候债券的价格会下跌"
    numbers = group_records([one, one + "呢？", "今天北京的天气怎么样"], [""] * 3)
    assert numbers[0] == numbers[1] != numbers[2]


def test_odd_texts_have_a_number() -> None:
    """Empty and broken ones too."""
    assert len(group_records(["", "\ud800", "a"], ["", "", ""])) == 3
