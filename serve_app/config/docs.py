"""The page on every config key, generated from the pydantic models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from enum import Enum
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from serve_app.config.app import AppConfig
from serve_app.config.runtime import RuntimeConfig

INTRODUCTION = """# Every config key

Generated from the models in `serve_app/config/` by `serve-app config-docs`; a test keeps it true.

The Serve config file is the only file to write. `applications[0].args` is the topology: a change
restarts deployments. `deployments: [{name: Router, user_config: ...}]` is the run-time config: a
change restarts nothing and does not affect calls in flight. To apply a change, edit the file and
run `serve deploy FILE`. Unknown keys are errors. `serve-app check FILE` reports errors before the
service starts. Names of keys end in their unit.
"""


def render_config_docs() -> str:
    """The whole page as Markdown."""
    parts = [INTRODUCTION]
    parts += _sections("Topology: `args`", AppConfig, "")
    parts += _sections("Run time: the Router's `user_config`", RuntimeConfig, "")
    return "\n".join(parts)


def _sections(title: str, model: type[BaseModel], prefix: str) -> Iterator[str]:
    yield f"## {title}\n"
    yield "| key | type | default | meaning |\n|---|---|---|---|"
    yield from _rows(model, prefix)
    yield ""


def _rows(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        nested, suffix = _nested(field.annotation)
        path = f"{prefix}{field.alias or name}{suffix}"
        if nested is RuntimeConfig:
            yield f"| `{path}` | section | see below | {field.description} |"
        elif nested is not None:
            yield from _rows(nested, f"{path}.")
        else:
            meaning = (field.description or "").replace("|", "\\|")
            yield f"| `{path}` | {_type(field)} | {_default(field)} | {meaning} |"


def _nested(annotation: Any) -> tuple[type[BaseModel] | None, str]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, ""
    origin = get_origin(annotation)
    suffix = "" if _is_union(origin) else ".NAME" if origin is dict else "[]"
    for item in get_args(annotation):
        if isinstance(item, type) and issubclass(item, BaseModel):
            return item, suffix
    return None, ""


def _is_union(origin: Any) -> bool:
    return origin is Union or str(origin) == "<class 'types.UnionType'>"


def _type(field: FieldInfo) -> str:
    bounds = [
        f"{symbol} {getattr(item, key):.12g}"
        for item in field.metadata
        for key, symbol in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))
        if getattr(item, key, None) is not None
    ]
    return ", ".join([_type_name(field.annotation), *bounds]).replace("|", "\\|")


def _type_name(annotation: Any) -> str:
    origin, args = get_origin(annotation), get_args(annotation)
    if annotation is type(None):
        return "null"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return " | ".join(f"`{member.value}`" for member in annotation)
    if isinstance(annotation, type) and not args:
        return annotation.__name__
    if str(origin) == "typing.Literal":
        return " | ".join(f"`{value}`" for value in args)
    if _is_union(origin):
        return " or ".join(_type_name(arg) for arg in args)
    if origin is dict:
        return "map"
    if origin is tuple:
        return f"list of {_type_name(args[0])}"
    return _type_name(args[0]) if args else "any"


def _default(field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=True, validated_data={})
    if default is PydanticUndefined:
        return "required"
    return f"`{json.dumps(default, default=str)}`"
