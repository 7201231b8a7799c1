"""Whether two answers to one question say the same, judged by their words.

The rules, in order; the first that applies decides:

1. the normalised answers are equal                                 the same
2. one or both are JSON                                             the same if they are equal
3. both end with numbers, which are compared; a list as a list      the same if they are equal
4. the shorter answer's words stand in a row in the longer answer   the same, unless only one of
                                                                    them denies something
5. both are short                                                   not the same
6. anything else                                                    unknown

The working before a result does not count (`3 + 4 = 7` says what `7` says).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Final

import orjson

from serve_app.core.normalise import normalise, parse_last_number

SHORT_CHARS: Final = 300
"""Answers up to this length without shared words differ; longer ones may be paraphrases."""

RESULT_CHARS: Final = 120
"""The longest last sentence that states a result; a longer one may have other numbers.
"""


def same(a: str, b: str) -> bool | None:
    """Whether both answers say the same; None if that is unknown. Symmetric."""
    if normalise(a) == normalise(b):
        return True
    found = _same_json(a, b)
    if found is None:
        found = _same_numbers(a, b)
    if found is not None:
        return found
    if _holds(a, b):
        return None if _denies(a) != _denies(b) else True
    return False if max(len(a), len(b)) <= SHORT_CHARS else None


def _same_json(a: str, b: str) -> bool | None:
    left, right = _parse_container(a), _parse_container(b)
    if left is None and right is None:
        return None
    try:
        return left is not None and right is not None and _equal(left, right)
    except RecursionError:
        return None


def _parse_container(text: str) -> object | None:
    """The object or list that makes up the whole text, with or without a fence; otherwise None."""
    fenced = _FENCED.fullmatch(text.strip())
    try:
        document: object = orjson.loads(fenced[1] if fenced else text)
    except orjson.JSONDecodeError:
        return None
    return document if isinstance(document, dict | list) else None


def _equal(a: object, b: object) -> bool:
    """Equality as in JSON: 1 equals 1.0, and true does not equal 1."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_equal, a, b))
    return isinstance(a, bool) == isinstance(b, bool) and a == b


def _same_numbers(a: str, b: str) -> bool | None:
    """Compare the numbers at the end of both results; None where a result ends without a number."""
    left, right = _result(a), _result(b)
    if max(len(left), len(right)) > RESULT_CHARS:
        return None
    numbers, others = _last_numbers(left), _last_numbers(right)
    if not numbers or not others:
        return None
    return len(numbers) == len(others) and all(map(math.isclose, numbers, others))


def _result(text: str) -> str:
    """The last sentence, without the working before it."""
    lines = text.strip().splitlines()
    sentences = [s for s in _SENTENCE.split(lines[-1] if lines else "") if s.strip()]
    return _WORKING.split(sentences[-1])[-1].strip() if sentences else ""


def _last_numbers(text: str) -> Sequence[float]:
    """The last number of a text, with the numbers right before it that form a list with it."""
    rows = _ROW.findall(text)
    numbers = [parse_last_number(item) for item in _ITEM.findall(rows[-1])] if rows else []
    return [number for number in numbers if number is not None]


def _holds(a: str, b: str) -> bool:
    """Whether the shorter answer's words stand in the first or last sentence of the longer one, or
    anywhere in a short one."""
    shorter, longer = sorted((a, b), key=lambda text: (len(_words(text)), text))
    words = _words(shorter)
    return bool(words) and any(_contains(_words(part), words) for part in _heads(longer))


def _heads(text: str) -> Sequence[str]:
    if len(text) <= SHORT_CHARS:
        return [text]
    sentences = [s for s in _SENTENCE.split(text.strip()) if s.strip()]
    return [sentences[0], sentences[-1]] if sentences else []


def _words(text: str) -> Sequence[str]:
    """Words in Latin and other scripts; a Chinese character is a word."""
    return _WORD.findall(normalise(text))


def _contains(words: Sequence[str], wanted: Sequence[str]) -> bool:
    if len(wanted) == 1 and len(wanted[0]) == 1 and wanted[0].isascii():
        # "A" and the like as the letter of a choice; "a" in the middle of a sentence is not a
        # choice.
        return words[:1] == wanted or words[-1:] == wanted
    return any(
        words[start : start + len(wanted)] == wanted
        for start in range(len(words) - len(wanted) + 1)
    )


def _denies(text: str) -> bool:
    return _DENIAL.search(text.casefold()) is not None


_FENCED = re.compile(r"```(?:json|JSON)?\s(.*?)```", re.DOTALL)
_SENTENCE = re.compile(r"(?<=[.!?])\s+|[。！？；;]\s*|\n+")
_WORKING = re.compile(r"=|:\s|：|→|⇒|=>|≈")
_NUMBER = r"(?<![A-Za-z0-9_.])-?\$?(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?%?"
_ITEM = re.compile(_NUMBER)
# "5 hours 30 minutes" is one result; "3 apples cost 12" is not.
_UNIT = (
    r"(?:hours?|h|minutes?|mins?|seconds?|s|days?|weeks?|months?|years?|feet|foot|ft|inch(?:es)?|in"
    r"|pounds?|lbs?|ounces?|oz|km|m|cm|mm|kg|g|dollars?|euros?|cents?"
    r"|个?小时|分钟?|秒钟?|天|周|个?月|年|米|厘米|公里|公斤|克|元|角)(?![A-Za-z])"
)
_ROW = re.compile(
    rf"{_NUMBER}(?:\s*{_UNIT})?"
    rf"(?:\s*(?:[,，、;；\s]|[-:/^](?=[0-9])|\band\b|和)*\s*{_NUMBER}(?:\s*{_UNIT})?)*"
)
_WORD = re.compile(r"[\u3400-\u9fff]|[^\W_\u3400-\u9fff]+")
_DENIAL = re.compile(
    r"\b(?:not?|never|cannot|none)\b|n[’']t\b"
    "|不[是能会对在可行要应属]|没有|并非|绝非|无法"
)
