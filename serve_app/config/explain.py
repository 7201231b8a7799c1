"""Config errors as an operator reads them: which key, what was expected, how to mend it."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from pydantic import BaseModel, ValidationError

from serve_app.config.app import AppConfig
from serve_app.config.runtime import RuntimeConfig


def explain_validation(error: ValidationError) -> str:
    """One line for each wrong key, with its path and, for an unknown one, the nearest valid key."""
    return "\n".join(f"  {line}" for line in _lines(error))


def _lines(error: ValidationError) -> Iterator[str]:
    for item in error.errors():
        path = ".".join(str(part) for part in item["loc"]) or "the whole config"
        if item["type"] == "extra_forbidden":
            near = difflib.get_close_matches(str(item["loc"][-1]), sorted(known_keys()), n=1)
            yield f"{path}: unknown key" + (f"; did you mean '{near[0]}'?" if near else "")
        else:
            yield f"{path}: {item['msg']}"


def known_keys() -> set[str]:
    """The name of every key of every config model."""
    return set(_keys(AppConfig)) | set(_keys(RuntimeConfig))


def _keys(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield name
        for candidate in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                yield from _keys(candidate)
