"""Config errors for an operator: which key is wrong, what was expected, how to mend it."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from typing import get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from serve_app.config.app import AppConfig
from serve_app.config.joint import JointPolicyConfig
from serve_app.config.runtime import RuntimeConfig

EXPECTED = {
    "bool_type": "expected true or false",
    "int_type": "expected a whole number",
    "float_type": "expected a number",
    "string_type": "expected text (in quotes)",
    "list_type": "expected a list",
    "tuple_type": "expected a list",
    "dict_type": "expected a map",
    "model_type": "expected a map",
    "dataclass_type": "expected a map",
    "unexpected_keyword_argument": "unknown key",
    "extra_forbidden": "unknown key",
    "invalid-json-value": "expected text (in quotes), a number, a list or a map",
    "missing": "required, but missing",
}
"""Pydantic's errors in the words of YAML."""


def explain_validation(error: ValidationError) -> str:
    """One line for each wrong key, with its path and, for an unknown one, the nearest valid key."""
    return "\n".join(f"  {line}" for line in _lines(error.errors()))


def describe(item: ErrorDetails) -> str:
    """What is wrong with a value, in one line and without its path."""
    message = item["msg"].replace("Input should be", "expected").removeprefix("Value error, ")
    message = EXPECTED.get(item["type"], " ".join(message.split()))
    if message.startswith("expected") and not isinstance(item["input"], dict | list | tuple):
        message += f", not {_quote(item['input'])}"
    return message


def _quote(value: object) -> str:
    return f"'{value}'" if isinstance(value, str) else json.dumps(value, default=str)


def _lines(items: list[ErrorDetails]) -> Iterator[str]:
    for item in items:
        if item["type"] == "too_short" and _has_deeper(items, item["loc"]):
            continue  # the list is too short only because its wrong elements do not count
        path = ".".join(str(part) for part in item["loc"]) or "the whole config"
        yield f"{path}: {describe(item)}{_hint(item)}"


def _has_deeper(items: list[ErrorDetails], loc: tuple[int | str, ...]) -> bool:
    return any(len(item["loc"]) > len(loc) and item["loc"][: len(loc)] == loc for item in items)


def _hint(item: ErrorDetails) -> str:
    if item["type"] != "extra_forbidden":
        return ""
    near = difflib.get_close_matches(str(item["loc"][-1]), sorted(known_keys()), n=1)
    return f"; did you mean '{near[0]}'?" if near else ""


def known_keys() -> set[str]:
    """The name of every key of every config model."""
    models = (AppConfig, RuntimeConfig, JointPolicyConfig)
    return {name for model in models for name in _keys(model)}


def _keys(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield field.alias or name
        for candidate in (field.annotation, *get_args(field.annotation)):
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                yield from _keys(candidate)
