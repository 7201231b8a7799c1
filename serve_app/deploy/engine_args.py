"""Checks a tier's `engine` arguments against the installed vLLM, before its replicas start."""

from __future__ import annotations

import dataclasses
import enum
import json
from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, get_args

from pydantic import ConfigDict, JsonValue, TypeAdapter
from pydantic.fields import FieldInfo
from vllm import config as vllm_config
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.cli_args import FrontendArgs
from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS

from serve_app.config.engine_arguments import check_engine_arguments

CONFIGS = (
    vllm_config.MultiModalConfig,
    vllm_config.ModelConfig,  # repeats some fields of the classes above, without their bounds
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
"""The classes in which vLLM bounds its engine arguments, which themselves have only types.
"""


@dataclass(frozen=True)
class ArgumentType:
    """The type and bounds of one argument, and how YAML's values are validated."""

    hint: Any

    @property
    def _types(self) -> list[type]:
        return [part for part in (self.hint, *get_args(self.hint)) if isinstance(part, type)]

    @property
    def strict(self) -> bool:
        """Whether a string such as "2" is rejected as a number. Ray converts maps to vLLM's config
        classes, and does so leniently."""
        return not any(map(dataclasses.is_dataclass, self._types))

    @property
    def adapter(self) -> TypeAdapter[Any]:
        """Pydantic's validator of the argument."""
        config = ConfigDict(arbitrary_types_allowed=True) if self.strict else None
        if any(issubclass(part, enum.Enum) and not issubclass(part, int) for part in self._types):
            # The user chooses by name, and vLLM looks the name up in its own way.
            return TypeAdapter(str | None, config=config)
        return TypeAdapter(self.hint, config=config)


class InstalledArguments:
    """The arguments of the installed vLLM, from its own classes."""

    @cached_property
    def types(self) -> Mapping[str, ArgumentType]:
        """Every argument that the engine and its server take, with its type and bounds."""
        fields = (*dataclasses.fields(AsyncEngineArgs), *dataclasses.fields(FrontendArgs))
        configs = ChainMap(*(config.__pydantic_fields__ for config in CONFIGS))
        return {
            field.name: ArgumentType(_hint(field.type, configs.get(field.name))) for field in fields
        }

    @property
    def names(self) -> Sequence[str]:
        """The name of every argument."""
        return list(self.types)

    @property
    def quantization_methods(self) -> Sequence[str]:
        """The valid values of `quantization`."""
        return list(QUANTIZATION_METHODS)

    def check_value(self, name: str, value: JsonValue) -> None:
        """Check a value with vLLM's own type."""
        kind = self.types[name]
        # As JSON, because YAML has no tuples, sets and enums for a strict check.
        kind.adapter.validate_json(json.dumps(value), strict=kind.strict)


def check_engine_args(tier: str, engine: Mapping[str, JsonValue]) -> None:
    """Check a tier's engine arguments against the installed vLLM, which will receive them.

    Raises:
        ValueError: names the key, and what to write instead.
    """
    check_engine_arguments(tier, engine, InstalledArguments())


def _hint(hint: Any, config: FieldInfo | None) -> Any:
    if config is None:
        return hint
    if isinstance(hint, str):  # written in quotes, for types that vLLM imports only to check itself
        hint = config.annotation
    return Annotated[(hint, *config.metadata)] if config.metadata else hint
