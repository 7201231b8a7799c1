"""The number that an answer ends with."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.normalise import parse_last_number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("42", 42),
        ("3 + 4 = 7, then 7 * 2 = 14.", 14),
        ("The answer is 1,234,567.", 1234567),
        ("1,234.50 euros", 1234.5),
        ("It costs $3.50", 3.5),
        ("-5", -5),
        ("x = -5.", -5),
        ("x=−5", -5),
        ("气温是-5度", -5),
        ("负12", -12),
        ("10-5", 5),
        ("f(3)-5", 5),
        ("a range of 3-4", 4),
        ("答案是１２３", 123),
        ("一共１，２３４．５元", 1234.5),
        ("有5，100", 100),
        ("共3个，每个20元，总价60元。", 60),
        (".5", 0.5),
        ("1.5e3", 1500),
        ("2e", 2),
        ("**42**", 42),
        (r"\boxed{42}", 42),
        ("40%", 40),
        ("12 m2", 12),
        ("7 kg of CO2", 7),
        ("12 m²", 12),
        ("1,2345", 2345),
        ("1,2,3", 3),
        ("v1.2.3", None),
        ("none", None),
        ("", None),
        ("-", None),
        ("...", None),
    ],
)
def test_the_last_number(text: str, number: float | None) -> None:
    """It is found in prose, however it is written."""
    assert parse_last_number(text) == number


@given(st.integers(-(10**15), 10**15), st.sampled_from(["{}", "{:,}", "so it is {}.", "得{:,}。"]))
def test_every_integer_is_read(number: int, form: str) -> None:
    """Grouped or not, alone or in a sentence."""
    assert parse_last_number(form.format(number)) == number


@given(st.floats(-1e12, 1e12), st.text(alphabet="abc 是，。\n:=("))
def test_every_decimal_is_read(number: float, before: str) -> None:
    """To the last digit that was written, whatever words stand before it."""
    written = f"{number:,.6f}"
    assert parse_last_number(f"{before} {written}") == float(written.replace(",", ""))


@given(st.integers(0, 10**12))
def test_full_width_digits_are_digits(number: int) -> None:
    """Chinese text may hold its numbers in full width, group commas included."""
    wide = f"{number:,}".translate(str.maketrans("0123456789,", "０１２３４５６７８９，"))
    assert parse_last_number(f"答案是{wide}。") == number


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    """No text raises."""
    number = parse_last_number(text)
    assert number is None or isinstance(number, float)
