"""What counts as a right answer, and what a check may say."""

from __future__ import annotations

import time
from typing import Any

import pytest

from serve_app.offline.evaluate.checks import (
    CheckBroke,
    InvalidCheck,
    parse_check,
)

PERSON = {
    "type": "object",
    "required": ["name", "age"],
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
}


def passes(kind: str, value: Any, answer: str) -> bool:
    """Whether a check as a line holds it lets this answer pass."""
    return parse_check({"type": kind, "value": value}).passes(answer)


@pytest.mark.parametrize(
    ("value", "answer", "right"),
    [
        ("Paris", "Paris", True),
        ("Paris", "  paris.\n", True),
        ("Paris", "Ｐａｒｉｓ！", True),
        ("Paris.", "Paris", True),
        ("Straße", "STRASSE", True),
        ("北京", "北京。", True),
        (["Beijing", "北京"], "北京", True),
        ("Paris", "It is Paris", False),
        ("Paris", "", False),
        ("Paris", "Par is", False),
    ],
)
def test_exact(value: Any, answer: str, right: bool) -> None:
    """The whole answer counts; case, width and the full stop do not."""
    assert passes("exact", value, answer) is right


@pytest.mark.parametrize(
    ("value", "answer", "right"),
    [
        (7, "3 + 4 = 7", True),
        (7, "7.0", True),
        (7, "7 + 4 = 11", False),
        (7, "seven", False),
        (0, "0", True),
        (0, "0.0000001", False),
        (0.33333, "0.33333333", False),
        (0.3333333, "0.33333333", True),
        (12345678, "12,345,678", True),
        (12345678, "12,345,679", False),
        (1e30, "1e30", True),
        (5, "1e999", False),
    ],
)
def test_numeric(value: Any, answer: str, right: bool) -> None:
    """One part in a million is equal, but an integer that is off by one is not."""
    assert passes("numeric", value, answer) is right


@pytest.mark.parametrize(
    ("value", "answer", "right"),
    [
        (r"\bParis\b", "It is Paris, I think", True),
        (r"^\s*Paris", "It is Paris", False),
        (r"(?i)paris", "PARIS", True),
        (r"(?m)^b$", "a\nb\nc", True),
    ],
)
def test_regex(value: str, answer: str, right: bool) -> None:
    """The pattern may be found anywhere, and says itself where it must be."""
    assert passes("regex", value, answer) is right


def test_a_catastrophic_regex_ends() -> None:
    """A pattern that would take years breaks off, and passes no judgement."""
    begun_at = time.monotonic()
    with pytest.raises(CheckBroke, match="took longer"):
        passes("regex", r"^(a|a)*$", "a" * 60 + "b")
    assert time.monotonic() - begun_at < 5


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ('{"name": "Li", "age": 3}', True),
        ('  {"name": "Li", "age": 3}\n', True),
        ('```json\n{"name": "Li", "age": 3}\n```', True),
        ('Here it is:\n```\n{"name": "Li", "age": 3}\n```\nDone.', True),
        ('```json\n{}\n```\nBetter:\n```json\n{"name": "Li", "age": 3}\n```', True),
        ('{"name": "```", "age": 3}', True),
        ('{"name": "Li", "age": -3}', False),
        ('{"name": "Li"}', False),
        ('{"name": "Li", "age": NaN}', False),
        ('Here it is: {"name": "Li", "age": 3}', False),
        ('```json\n{"name": "Li", "age": 3}', False),
        ("{'name': 'Li', 'age': 3}", False),
        ("[" * 5000, False),
        ("", False),
    ],
)
def test_json_schema(answer: str, right: bool) -> None:
    """Nothing but JSON, bare or in a fence; prose around bare JSON does not follow the format."""
    assert passes("json_schema", PERSON, answer) is right


def test_a_recursive_schema_ends() -> None:
    """An answer nested deeper than Python can follow is wrong, not an error."""
    schema = {"items": {"$ref": "#"}, "type": "array"}
    assert passes("json_schema", schema, "[[]]")
    assert not passes("json_schema", schema, "[" * 900 + "1" + "]" * 900)


def test_a_schema_fetches_nothing() -> None:
    """A reference to the network is refused, not followed."""
    with pytest.raises(CheckBroke, match="refers"):
        passes("json_schema", {"$ref": "http://127.0.0.1:1/schema.json"}, "{}")


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("Paris", "check: expected an object"),
        ({"value": "x"}, "check.type: expected one of exact, numeric, regex, json_schema"),
        ({"type": ["exact"], "value": "x"}, "check.type"),
        ({"type": "fuzzy", "value": "x"}, "check.type"),
        ({"type": "exact"}, "check.value: expected a value"),
        ({"type": "exact", "value": "x", "values": []}, "check.values: expected no such key"),
        ({"type": "exact", "value": 3}, "a string, or a list of strings"),
        ({"type": "exact", "value": []}, "a string, or a list of strings"),
        ({"type": "exact", "value": " . "}, "more than spaces and punctuation"),
        ({"type": "numeric", "value": "3"}, "a number"),
        ({"type": "numeric", "value": True}, "a number"),
        ({"type": "numeric", "value": 10**400}, "a number"),
        ({"type": "regex", "value": "("}, "a regular expression ("),
        ({"type": "regex", "value": ""}, "a regular expression"),
        ({"type": "json_schema", "value": []}, "a JSON schema"),
        ({"type": "json_schema", "value": {"type": "strin"}}, "a JSON schema ("),
    ],
)
def test_a_bad_check_says_what_is_wrong(document: object, words: str) -> None:
    """The message names the key and what belongs there."""
    with pytest.raises(InvalidCheck) as caught:
        parse_check(document)
    assert words in str(caught.value)
