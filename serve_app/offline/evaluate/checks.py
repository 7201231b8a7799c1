"""Decide whether an answer is right: the `check` of a labelled line.

{"type": "exact", "value": "Paris"}              the whole answer; or a list of alternatives
{"type": "numeric", "value": 1234.5}             the last number in the answer
{"type": "regex", "value": "\\bParis\\b"}        found anywhere in the answer
{"type": "json_schema", "value": {...}}          the answer, or its last fenced block, as JSON
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import jsonschema
import orjson
import referencing
import regex
from referencing.exceptions import Unresolvable

from serve_app.core.normalise import normalise, parse_last_number

_REGEX_S_MAX = 1.0
_RELATIVE_TOLERANCE = 1e-6
# An integer that is off by one is wrong, however large it is.
_INTEGER_TOLERANCE_MAX = 0.5


class InvalidCheck(ValueError):
    """The `check` of a line cannot be used; the message names the key and the expected value."""

    def __init__(self, key: str, expected: str) -> None:
        super().__init__(key, expected)
        self.key = key
        self.expected = expected

    def __str__(self) -> str:
        return f"{self.key}: expected {self.expected}"


class CheckBroke(Exception):
    """The check itself failed on this answer, so whether the answer is right is unknown."""


class Check(Protocol):
    """A rule that decides whether an answer is right."""

    def passes(self, answer: str) -> bool:
        """Whether the answer is right.

        Raises:
            CheckBroke: the check could not be applied to this answer.
        """
        ...


@dataclass(frozen=True, slots=True)
class ExactCheck:
    """The whole answer, normalised, is one of these, normalised."""

    alternatives: frozenset[str]

    def passes(self, answer: str) -> bool:
        return normalise(answer) in self.alternatives


@dataclass(frozen=True, slots=True)
class NumericCheck:
    """The last number in the answer is this one."""

    value: int | float

    def passes(self, answer: str) -> bool:
        number = parse_last_number(answer)
        return number is not None and abs(number - self.value) <= self._tolerance

    @property
    def _tolerance(self) -> float:
        tolerance = _RELATIVE_TOLERANCE * abs(self.value)
        return min(tolerance, _INTEGER_TOLERANCE_MAX) if isinstance(self.value, int) else tolerance


@dataclass(frozen=True, slots=True)
class RegexCheck:
    """The pattern is found in the answer."""

    pattern: regex.Pattern[str]

    def passes(self, answer: str) -> bool:
        try:
            return self.pattern.search(answer, timeout=_REGEX_S_MAX) is not None
        except TimeoutError:
            raise CheckBroke(f"the pattern took longer than {_REGEX_S_MAX:g} s") from None


@dataclass(frozen=True, slots=True)
class JsonSchemaCheck:
    """The answer is JSON that is valid against the schema."""

    validator: Any  # jsonschema has no types

    def passes(self, answer: str) -> bool:
        try:
            return bool(self.validator.is_valid(parse_json(answer)))
        except (orjson.JSONDecodeError, RecursionError):
            return False
        except Unresolvable as error:
            raise CheckBroke(
                f"the schema refers to a part that it does not have: {error.ref}"
            ) from None


def parse_check(document: object) -> Check:
    """The check of a labelled line.

    Raises:
        InvalidCheck: it cannot be used.
    """
    if not isinstance(document, dict):
        raise InvalidCheck("check", "an object with `type` and `value`")
    for key in document.keys() - {"type", "value"}:
        raise InvalidCheck(f"check.{key}", "no such key; the keys are `type` and `value`")
    kind = document.get("type")
    if not isinstance(kind, str) or kind not in _PARSERS:
        raise InvalidCheck("check.type", f"one of {', '.join(_PARSERS)}")
    if "value" not in document:
        raise InvalidCheck("check.value", "a value")
    return _PARSERS[kind](document["value"])


def parse_json(answer: str) -> object:
    """The answer as JSON: the whole answer, else its last fenced block.

    Raises:
        orjson.JSONDecodeError: neither is JSON.
    """
    try:
        return orjson.loads(answer)
    except orjson.JSONDecodeError:
        blocks = _FENCED.findall(answer)
        if not blocks:
            raise
        return orjson.loads(blocks[-1])


def _parse_exact(value: object) -> Check:
    alternatives = value if isinstance(value, list) else [value]
    if not alternatives or not all(isinstance(item, str) for item in alternatives):
        raise InvalidCheck("check.value", "a string, or a list of strings")
    normalised = frozenset(map(normalise, alternatives))
    if "" in normalised:
        raise InvalidCheck("check.value", "more than spaces and punctuation")
    return ExactCheck(normalised)


def _parse_numeric(value: object) -> Check:
    # True is an int to Python. An int may also be too large for a float.
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            if math.isfinite(value):
                return NumericCheck(value)
        except OverflowError:
            pass
    raise InvalidCheck("check.value", "a number")


def _parse_regex(value: object) -> Check:
    if not isinstance(value, str) or not value:
        raise InvalidCheck("check.value", "a regular expression")
    try:
        return RegexCheck(regex.compile(value))
    except regex.error as error:
        raise InvalidCheck("check.value", f"a regular expression ({error})") from None


def _parse_json_schema(value: object) -> Check:
    if not isinstance(value, dict):
        raise InvalidCheck("check.value", "a JSON schema, an object")
    draft = jsonschema.validators.validator_for(value, jsonschema.Draft202012Validator)
    try:
        draft.check_schema(value)
    except jsonschema.SchemaError as error:
        raise InvalidCheck("check.value", f"a JSON schema ({error.message})") from None
    # An empty registry: a reference to the network in a schema must not be fetched.
    return JsonSchemaCheck(draft(value, registry=referencing.Registry()))


_PARSERS: Mapping[str, Callable[[object], Check]] = {
    "exact": _parse_exact,
    "numeric": _parse_numeric,
    "regex": _parse_regex,
    "json_schema": _parse_json_schema,
}

_FENCED = re.compile(r"```(?:json|JSON)?\s(.*?)```", re.DOTALL)
