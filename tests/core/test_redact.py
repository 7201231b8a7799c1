"""What is taken out of texts before they are written."""

from __future__ import annotations

import pytest

from serve_app.config.feedback import BUILT_INS
from serve_app.core.redact import RedactionFailed, Redactor, passes_luhn
from serve_app.offline.demo.testset import draw_testset
from tests.routing.prompts import EASY_EN, EASY_ZH, HARD_EN, HARD_ZH


def redact(text: str, *patterns: str) -> str:
    [redacted] = Redactor(patterns or BUILT_INS).redact([text])
    return redacted


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("Mail ann.lee+x@mail.example.co.uk.", "Mail [email]."),
        ("Call +49 (0)30 901820 or 030 901820!", "Call [phone] or [phone]!"),
        ("Tel. (555) 123-4567, 0044 20 7946 0958", "Tel. [phone], [phone]"),
        ("手机13812345678，或138-1234-5678。", "手机[phone]，或[phone]。"),
        ("Card 4111 1111 1111 1111, 378282246310005", "Card [card], [card]"),
        ("DE89 3704 0044 0532 0130 00 please", "[iban] please"),
        ("gb82west12345698765432", "[iban]"),
        ("use sk-proj-abcdefghijklmnop1234", "use [secret]"),
        ("Authorization: Bearer abcdef1234567890", "Authorization: [secret]"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.abc-def", "[secret]"),
        ("password: hunter2xyz, next", "[secret], next"),
        ("我的密码是abc12345。", "我的[secret]。"),
        ("postgres://ann:pass1234@db/x", "postgres://[secret]db/x"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMII\n-----END RSA PRIVATE KEY----- x", "[secret] x"),
    ],
)
def test_personal_data_and_secrets(text: str, redacted: str) -> None:
    """All built-in patterns are on by default."""
    assert redact(text) == redacted


@pytest.mark.parametrize(
    "text",
    [
        "Sort 5, 3, 9, 100, 23, 45.",
        "12 + 34 - 56 + 78 - 9 = 59",
        "0.123456789012 and 3.14159",
        "2024-11-21 20:30:15, 03/04/2024, 192.168.100.200",
        "4111 1111 1111 1112 has a wrong check digit",
        "The token is expired, and so is the secret of success.",
        *EASY_EN, *EASY_ZH, *HARD_EN, *HARD_ZH,
    ],
)  # fmt: skip
def test_other_text_stays(text: str) -> None:
    """Sums, lists, dates and everyday words are what the router learns from."""
    assert redact(text) == text


def test_the_questions_of_the_demo_stay() -> None:
    """All of them."""
    texts = [turn.content for item in draw_testset(52) for turn in item.messages]
    assert Redactor(BUILT_INS).redact(texts) == texts


def test_only_what_is_named_is_taken_out() -> None:
    """And the user's own patterns; no pattern, no change."""
    text = "ann@example.com has order K-123"
    assert redact(text, "email") == "[email] has order K-123"
    assert redact(text, r"K-\d+") == "ann@example.com has order [redacted]"
    assert Redactor(()).redact([text]) == [text]


def test_a_slow_pattern_fails_and_hides_nothing() -> None:
    """Nobody knows what is in the text, so it must not be used."""
    with pytest.raises(RedactionFailed):
        Redactor([r"(?:(?:a+)+)+b"], seconds_max=0.05).redact(["a" * 5000])


@pytest.mark.parametrize(
    "seed", ["a@", "+1 2", "1234 ", "AB12 ", "-----BEGIN PRIVATE KEY-----", "0 1 "]
)
def test_the_built_in_patterns_are_linear_enough(seed: str) -> None:
    """Text written to slow them down is done within the limit that texts have."""
    Redactor(BUILT_INS).redact([seed * (100_000 // len(seed))])


@pytest.mark.parametrize(
    ("number", "passes"), [("4111 1111 1111 1111", True), ("79927398710", False)]
)
def test_check_digit(number: str, passes: bool) -> None:
    """As payment cards have it."""
    assert passes_luhn(number) is passes
