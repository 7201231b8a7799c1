"""Removes personal data and secrets from texts, or reports that it could not in time."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence

import regex

REDACT_S_MAX = 2.0
"""The time limit for one call's texts together, because a user's pattern may be slow."""


PHONE_DIGITS_MIN = 9
"""The fewest digits of a telephone number; a date has eight."""


class RedactionFailed(Exception):
    """The patterns took too long on these texts, so their contents are unknown."""


class Redactor:
    """The active patterns, built-in patterns first."""

    def __init__(self, patterns: Sequence[str], *, seconds_max: float = REDACT_S_MAX) -> None:
        """`patterns` are names of built-in patterns or regular expressions, as in the config."""
        self._seconds_max = seconds_max
        built_in = [name for name in _BUILT_INS if name in patterns]
        own = [pattern for pattern in patterns if pattern not in _BUILT_INS]
        self._rules = [(name, pattern) for name in built_in for pattern in _BUILT_INS[name]]
        self._rules += [("redacted", regex.compile(pattern)) for pattern in own]

    def redact(self, texts: Sequence[str]) -> list[str]:
        """The texts without the matches of the patterns. Blocks; other threads run meanwhile.

        Raises:
            RedactionFailed: redacting took too long.
        """
        deadline = time.monotonic() + self._seconds_max
        return [self._redact_one(text, deadline) for text in texts]

    def _redact_one(self, text: str, deadline: float) -> str:
        for name, pattern in self._rules:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise RedactionFailed
            try:
                text = pattern.sub(
                    _REPLACERS.get(name, f"[{name}]"), text, concurrent=True, timeout=left_s
                )
            except TimeoutError:
                raise RedactionFailed from None
        return text


def passes_luhn(number: str) -> bool:
    """Whether the digits end with their own check digit, as payment card numbers do."""
    digits = [int(digit) for digit in reversed(re.sub(r"\D", "", number))]
    doubled = (2 * digit for digit in digits[1::2])
    return (sum(digits[::2]) + sum(d - 9 if d > 9 else d for d in doubled)) % 10 == 0


def _replace_card(match: regex.Match[str]) -> str:
    return "[card]" if passes_luhn(match[0]) else match[0]


def _replace_phone(match: regex.Match[str]) -> str:
    digits = sum(character.isdigit() for character in match[0])
    return "[phone]" if digits >= PHONE_DIGITS_MIN else match[0]


_REPLACERS: Mapping[str, Callable[[regex.Match[str]], str]] = {
    "card": _replace_card,
    "phone": _replace_phone,
}

# In the order of application: texts that name their kind first, bare digits last.
_SOURCES: Mapping[str, Sequence[str]] = {
    "secret": (
        r"-----BEGIN [A-Z ]{0,30}?PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,30}?PRIVATE KEY-----|\Z)",
        r"\beyJ[\w-]{8,}+\.[\w-]{4,}+(?:\.[\w-]*+)?",  # JWT
        r"(?i)\bBearer\s++[\w.~+/-]{12,}+=*+",
        # Keys with a known prefix: OpenAI, GitHub, GitLab, Slack, Hugging Face, AWS, Google.
        r"\b(?:sk|pk|rk)[-_][\w-]{16,}+|\bgh[pousr]_\w{20,}+|\bgithub_pat_\w{20,}+"
        r"|\bglpat-[\w-]{16,}+|\bxox[abeoprs]-[\w-]{10,}+|\bhf_\w{20,}+"
        r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bAIza[\w-]{35}",
        r"(?<=://)[^\s/@:]{1,64}+:[^\s/@]{1,128}+@",
        # A value that is given to a name for secrets; "the token is expired" gives no value.
        r"(?i)(?:api[ _-]?key|access[ _-]?key|token|secret|password|passwd|pwd|密码|口令|密钥)"
        r"[\"']?\s*+(?:[:=：]|(?:\bis\b|是)(?=\s*+[^\s\d]{0,40}+\d))\s*+[\"']?[^\s\"',;，；。]{6,}+",
    ),
    "email": (r"(?<![\w.+%-])[\w.+%-]{1,64}+@[\w-]{1,63}+(?:\.[\w-]{1,63}+)++",),
    "iban": (
        r"\b[A-Z]{2}\d{2}(?:\ ?[A-Z0-9]{4}){2,7}(?:\ ?[A-Z0-9]{1,4})?\b",
        r"(?i)\b[A-Z]{2}\d{2}[A-Z0-9]{11,30}\b",
    ),
    "card": (
        r"(?<![\d-])(?:\d{13,19}|\d{4}([ -])\d{4}\1\d{4}\1\d{1,4}(?:\1\d{1,3})?"
        r"|\d{4}([ -])\d{6}\2\d{4,5})(?![\d-])",
    ),
    # A country code, a leading 0, North America's 3-3-4 or China's 11 digits. A pattern for any row
    # of digits would take every sum for a telephone number.
    "phone": (
        r"(?<![\w.+])(?:\+|00)[1-9]\d{0,2}(?:[ ./-]?\(?\d{1,5}\)?){2,5}(?!\w)",
        r"(?<![\w.,-])\(?0[1-9]\d{0,4}\)?(?:[ ./-]\d{2,8}){1,4}(?![\w.]\d)",
        r"(?<![\w.,-])(?:\(\d{3}\) ?|\d{3}[-.])\d{3}[-.]\d{4}(?!\w)",
        r"(?<!\d)1[3-9]\d(?:[ -]?\d{4}){2}(?!\d)",
        r"(?<![\d.,])0\d{9,11}(?!\d)",
    ),
}
_BUILT_INS: Mapping[str, Sequence[regex.Pattern[str]]] = {
    name: [regex.compile(source, regex.DOTALL) for source in sources]
    for name, sources in _SOURCES.items()
}
