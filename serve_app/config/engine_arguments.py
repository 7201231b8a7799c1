"""Check a tier's `engine` and `accelerator_type` on machines without vLLM and Ray."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, Protocol, cast

from pydantic import BaseModel, JsonValue, ValidationError
from pydantic_core import CoreSchema, SchemaValidator

from serve_app.config.explain import describe

OURS = {
    "model": "tiers[].model_source",
    "served_model_name": "tiers[].model_id",
    "lora_modules": "tiers[].adapters",
    "distributed_executor_backend": "tiers[].accelerator",
    "host": "no key: the engine listens on its node's address, and serves lease holders only",
    "port": "no key: the engine listens on a free port",
    "api_key": "no key: the engine answers lease holders only",
    "allowed_media_domains": "tiers[].media.allowed_hosts",
    "allowed_local_media_path": "no key: engines read no files for a client",
    **{
        f"data_parallel_{key}": "no key: Ray places the engines of a group and numbers them"
        for key in (
            "address",
            "backend",
            "external_lb",
            "hybrid_lb",
            "rank",
            "rpc_port",
            "size_local",
            "start_rank",
        )
    },
}
"""Engine arguments that the application sets itself, and the key that replaces each of them."""

SCHEMA = "engine_arguments.json"
"""The schema's file, beside this module; `make engine-arguments` writes it from the pinned vLLM."""

PYTHON_ONLY = frozenset({"callable_type", "needs_python_object"})
"""Errors about alternatives that YAML cannot express."""


class EngineArguments(Protocol):
    """The arguments of one vLLM, from its own classes or from the schema generated from them."""

    @property
    def names(self) -> Sequence[str]:
        """Every argument of its engine and server."""

    @property
    def quantization_methods(self) -> Sequence[str]:
        """The values of `quantization`."""

    def check_value(self, name: str, value: JsonValue) -> None:
        """Check a value against the argument's type and bounds.

        Raises:
            ValidationError: lists every problem of the value.
        """


class Argument(BaseModel):
    """One argument; `default` is absent if JSON cannot hold it or vLLM computes it."""

    core: dict[str, Any]
    """A schema of pydantic-core, so that messages and precision are those of vLLM's own classes."""
    strict: bool = True
    default: JsonValue = None


class PinnedArguments(BaseModel):
    """The arguments of the pinned vLLM and Ray, from the generated schema."""

    vllm: str
    ray: str
    accelerator_types: tuple[str, ...]
    quantization_methods: tuple[str, ...]
    arguments: dict[str, Argument]

    @property
    def names(self) -> Sequence[str]:
        """Every argument, including the arguments that the application sets."""
        return (*self.arguments, *OURS)

    def check_value(self, name: str, value: JsonValue) -> None:
        """Check a value against the schema of its argument."""
        argument = self.arguments[name]
        validator = SchemaValidator(cast(CoreSchema, argument.core))
        # As JSON, because a strict check of Python values would demand tuples, sets and enums.
        validator.validate_json(json.dumps(value), strict=argument.strict)


@cache
def read_engine_arguments() -> PinnedArguments:
    """The schema that comes with the package."""
    text = files("serve_app.config").joinpath(SCHEMA).read_bytes()
    return PinnedArguments.model_validate_json(text)


def check_engine_arguments(
    tier: str, engine: Mapping[str, JsonValue], known: EngineArguments | None = None
) -> None:
    """Check that a tier's engine arguments exist, and that vLLM accepts the values unchanged.

    The check is strict: Ray bypasses vLLM's command line, and only the command line reads "32k"
    as a number.

    Raises:
        ValueError: names the key and a valid replacement.
    """
    known = known or read_engine_arguments()
    for key, value in engine.items():
        if problem := _problem(known, key, value):
            raise ValueError(f"tiers.{tier}.engine.{key}: {problem}")


def check_accelerator_type(tier: str, name: str) -> None:
    """Check that ray.serve.llm accepts a tier's name of a GPU.

    Raises:
        ValueError: names the closest accepted name, and the mend for other GPUs.
    """
    known = read_engine_arguments().accelerator_types
    if name not in known:
        upper = {other.upper(): other for other in known}
        near = difflib.get_close_matches(name.upper(), upper, n=1)
        hint = f"did you mean '{upper[near[0]]}'? Otherwise " if near else ""
        raise ValueError(
            f"tiers.{tier}.accelerator_type: ray.serve.llm does not take '{name}'; {hint}leave it "
            "out, and place by node_labels or resources_per_replica"
        )


def _problem(known: EngineArguments, key: str, value: JsonValue) -> str | None:
    if key in OURS:
        return f"serve-app sets this argument; use {OURS[key]}"
    methods = known.quantization_methods
    if key == "quantization" and isinstance(value, str) and value not in methods:
        return f"not a method of this vLLM, which has {', '.join(methods)}"
    if key not in known.names:
        near = difflib.get_close_matches(key, known.names, n=1)
        return "not an argument of this vLLM" + (f"; did you mean '{near[0]}'?" if near else "")
    try:
        known.check_value(key, value)
    except ValidationError as error:
        if value is None:
            return "null is not a value; leave the key out for vLLM's default"
        return "; ".join(dict.fromkeys(_lines(error, value)))
    return None


def _lines(error: ValidationError, value: JsonValue) -> Iterator[str]:
    for item in error.errors():
        if item["type"] not in PYTHON_ONLY:
            # Only an item of a map or a list has a path; otherwise `loc` names a member of a union.
            path = item["loc"] if isinstance(value, dict | list) else ()
            yield "".join(f"{part}: " for part in path) + describe(item)
