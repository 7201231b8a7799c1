"""Checking a tier's `engine` arguments against the pinned vLLM, before anything starts."""

from __future__ import annotations

import dataclasses
import difflib
import enum
import json
from collections import ChainMap
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, get_args

from pydantic import ConfigDict, JsonValue, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from vllm import config as vllm_config
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.cli_args import FrontendArgs
from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS

from serve_app.config.explain import describe

OURS = {
    "model": "tiers[].model_source",
    "served_model_name": "tiers[].model_id",
    "lora_modules": "tiers[].adapters",
    "distributed_executor_backend": "tiers[].accelerator",
    "host": "nothing: the engine listens on its node's address, to lease holders only",
    "port": "nothing: the engine listens on a free port",
    "api_key": "nothing: the engine answers lease holders only",
    **{
        f"data_parallel_{key}": "nothing: Ray places the engines of a group and numbers them"
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
"""Engine arguments that the application sets itself, and the key that takes their place."""

CONFIGS = (
    vllm_config.MultiModalConfig,
    vllm_config.ModelConfig,  # repeats some of the above, without their bounds
    vllm_config.CacheConfig,
    vllm_config.LoadConfig,
    vllm_config.LoRAConfig,
    vllm_config.ObservabilityConfig,
    vllm_config.ParallelConfig,
    vllm_config.PrefetchOffloadConfig,
    vllm_config.SchedulerConfig,
    vllm_config.UVAOffloadConfig,
    vllm_config.VllmConfig,
)
"""Where vLLM bounds its engine arguments; the arguments themselves have types only."""

PYTHON_ONLY = frozenset({"callable_type", "needs_python_object"})
"""Errors that speak of alternatives which no YAML can give."""


def known_engine_args() -> dict[str, Any]:
    """Every argument that the pinned vLLM's engine and server take, with its type and bounds."""
    fields = (*dataclasses.fields(AsyncEngineArgs), *dataclasses.fields(FrontendArgs))
    configs = ChainMap(*(config.__pydantic_fields__ for config in CONFIGS))
    return {field.name: _hint(field.type, configs.get(field.name)) for field in fields}


def check_engine_args(tier: str, engine: Mapping[str, JsonValue]) -> None:
    """Check that a tier's engine arguments exist, and that vLLM takes the values as they are.

    Strictly: Ray hands them to vLLM past its command line, which alone reads "32k" as a number.

    Raises:
        ValueError: names the key, and what to write instead.
    """
    known = known_engine_args()
    for key, value in engine.items():
        if problem := _problem(known, key, value):
            raise ValueError(f"tiers.{tier}.engine.{key}: {problem}")


def _hint(hint: Any, config: FieldInfo | None) -> Any:
    if config is None:
        return hint
    if isinstance(hint, str):  # written in quotes, for types that vLLM imports only to check itself
        hint = config.annotation
    return Annotated[(hint, *config.metadata)] if config.metadata else hint


def _problem(known: Mapping[str, Any], key: str, value: JsonValue) -> str | None:
    if key in OURS:
        return f"set here by us; use {OURS[key]}"
    if key == "quantization" and isinstance(value, str) and value not in QUANTIZATION_METHODS:
        return f"not a method of this vLLM, which has {', '.join(QUANTIZATION_METHODS)}"
    if key not in known:
        near = difflib.get_close_matches(key, known, n=1)
        return "not an argument of this vLLM" + (f"; did you mean '{near[0]}'?" if near else "")
    try:
        _validate(known[key], value)
    except ValidationError as error:
        if value is None:
            return "null is no value here; leave the key out for vLLM's default"
        return "; ".join(dict.fromkeys(_lines(error, value)))
    return None


def _validate(hint: Any, value: JsonValue) -> None:
    types = [part for part in (hint, *get_args(hint)) if isinstance(part, type)]
    nested = any(map(dataclasses.is_dataclass, types))  # Ray converts these itself, and leniently
    config = None if nested else ConfigDict(arbitrary_types_allowed=True)
    if any(issubclass(part, enum.Enum) and not issubclass(part, int) for part in types):
        hint = str | None  # chosen by name, which vLLM looks up in its own way
    # As JSON, since YAML has no tuples, sets and enums to be strict about.
    TypeAdapter(hint, config=config).validate_json(json.dumps(value), strict=not nested)


def _lines(error: ValidationError, value: JsonValue) -> Iterator[str]:
    for item in error.errors():
        if item["type"] not in PYTHON_ONLY:
            # Only what is within a map or a list has a path; else `loc` names a member of a union.
            path = item["loc"] if isinstance(value, dict | list) else ()
            yield "".join(f"{part}: " for part in path) + describe(item)
