"""Engine arguments are checked by vLLM's classes and by their schema, with the same words."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import engine_arguments
import pytest
import yaml
from pydantic import JsonValue, TypeAdapter
from ray.llm._internal.serve.engines.vllm.vllm_engine import _normalize_vllm_engine_kwargs
from vllm.engine.arg_utils import AsyncEngineArgs

from serve_app import demo
from serve_app.config.engine_arguments import (
    OURS,
    check_engine_arguments,
    read_engine_arguments,
)
from serve_app.config.reader import read_serve_config
from serve_app.config.tiers import TierConfig
from serve_app.deploy.engine_args import InstalledArguments, check_engine_args

Check = Callable[[str, dict[str, Any]], None]

VALUES: tuple[JsonValue, ...] = (
    *(None, True, False, 0, 1, -1, -2, 2, 3, 1.0, 1.5, 0.5, -0.5, 1.7, 1e30, 10**20),
    *("", "x", "auto", "2", "32k"),
    *([], [1], ["a"], [None], [True], [[1]], [{}]),
    *({}, {"a": 1}, {"a": "b"}, {"1": 2}, {"a": {"b": 1}}),
)
"""Of every type that YAML has, within and out of bounds."""

BETWEEN_KEYS = {
    "compilation_config": {"custom_ops", "inductor_passes"},
    "ec_manager_config": {"manager_config"},
    "ec_transfer_config": {"ec_connector"},
    "eplb_config": {"communicator"},
    "kv_transfer_config": {"kv_connector"},
    "mamba_config": {"enable_stochastic_rounding", "ssu_algorithm"},
    "pooler_config": {"logit_sigma"},
    "profiler_config": {
        *("profiler", "torch_profiler_dir", "capture_torch_profiler"),
        *("proton_profiler_dir", "proton_context", "proton_data", "proton_backend"),
        *("proton_mode", "proton_hook", "proton_output_format"),
    },
    "structured_outputs_config": {"disable_any_whitespace", "disable_additional_properties"},
}
"""Keys that vLLM holds against other keys or against the machine: only a start finds these."""


@pytest.fixture(params=[check_engine_args, check_engine_arguments], ids=["vllm", "schema"])
def check(request: pytest.FixtureRequest) -> Check:
    """Both ways to check, by vLLM's own classes and by what was written down of them."""
    found: Check = request.param
    return found


@pytest.mark.parametrize(
    "engine",
    [
        {},
        {"dtype": "bfloat16", "max_model_len": 4096, "enforce_eager": True},
        {"enable_prefix_caching": False, "gpu_memory_utilization": 0.9},
        {"enable_auto_tool_choice": True, "tool_call_parser": "hermes"},
        {"default_chat_template_kwargs": {"enable_thinking": False}},
        {"limit_mm_per_prompt": {"image": 2}, "compilation_config": {"mode": 0}},
        {"allowed_origins": ["*"], "middleware": ["a.b"], "cudagraph_capture_sizes": [1, 2]},
        {"max_model_len": -1, "gpu_memory_utilization": 1, "revision": None},
        {"attention_backend": "FLASH_ATTN", "mamba_backend": "triton", "optimization_level": 2},
        {"lora_dtype": "auto", "hf_overrides": {"a": 1}, "quantization_config": {"a": 1}},
        {"compilation_config": {"mode": 3, "cudagraph_mode": "FULL_DECODE_ONLY"}},
    ],
)
def test_valid_arguments_pass(check: Check, engine: dict[str, Any]) -> None:
    """Numbers, switches, choices, maps and lists are taken as YAML gives them."""
    check("fast", engine)


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        ({"max_model_length": 1}, "did you mean 'max_model_len'"),
        ({"tensor_paralel_size": 2}, "did you mean 'tensor_parallel_size'"),
        ({"zzzzqqq": 1}, "not an argument of this vLLM$"),
        ({"tensor_parallel_size": "two"}, "'two'"),
        ({"max_num_seqs": 1.5}, "1.5"),
        ({"gpu_memory_utilization": "high"}, "'high'"),
        ({"enable_prefix_caching": "yes"}, "yes"),
        ({"dtype": "bfloat17"}, "'bfloat16'.* not 'bfloat17'$"),
        ({"compilation_config": {"no_such_key": 3}}, "no_such_key: unknown key$"),
        ({"max_model_len": "32k"}, "expected a whole number, not '32k'$"),
        ({"tensor_parallel_size": "2"}, "expected a whole number, not '2'$"),
        ({"tensor_parallel_size": 0}, "expected greater than or equal to 1, not 0$"),
        ({"max_model_len": -2}, "expected greater than or equal to -1, not -2$"),
        ({"data_parallel_rank": 0}, "Ray places the engines of a group and numbers them$"),
        ({"max_num_batched_tokens": 0}, "expected greater than or equal to 1, not 0$"),
        ({"mm_processor_cache_gb": -1}, "expected greater than or equal to 0, not -1$"),
        ({"max_model_len": None}, "null is not a value; leave the key out for vLLM's default$"),
        ({"enable_prefix_caching": "yes"}, "expected true or false, not 'yes'$"),
        ({"revision": 5}, r"expected text \(in quotes\), not 5$"),
        ({"attention_backend": 5}, r"expected text \(in quotes\), not 5$"),
        ({"lora_dtype": 5}, r"expected text \(in quotes\), not 5$"),
        ({"quantization": "bitsandbytes"}, "not a method of this vLLM, which has awq, "),
        ({"quantization_config": 5}, "expected a map, not 5$"),
        ({"eplb_config": {"window_size": 0}}, "window_size: expected greater than 0, not 0$"),
        ({"gpu_memory_utilization": 1.7}, "expected less than or equal to 1, not 1.7$"),
    ],
)
def test_a_wrong_argument_is_named(check: Check, engine: dict[str, Any], words: str) -> None:
    """One line names tier and key, what was expected and what is there."""
    (key,) = engine
    with pytest.raises(ValueError, match=rf"^tiers\.fast\.engine\.{key}: .*{words}"):
        check("fast", engine)


def test_one_wrong_argument_among_many_is_found(check: Check) -> None:
    """Valid neighbours do not hide it."""
    with pytest.raises(ValueError, match="max_num_seqs"):
        check("strong", {"dtype": "auto", "max_num_seqs": "many", "seed": 1})


@pytest.mark.parametrize(("key", "instead"), OURS.items())
def test_our_own_arguments_are_refused(check: Check, key: str, instead: str) -> None:
    """What the application sets itself is refused, with what takes its place."""
    with pytest.raises(ValueError, match=rf"engine\.{key}: serve-app sets this argument") as caught:
        check("fast", {key: "x"})
    assert instead in str(caught.value)


def test_our_own_arguments_exist() -> None:
    """The list of refused keys follows the pinned vLLM."""
    assert set(OURS) <= set(InstalledArguments().names)


def test_every_block_of_the_engine_page_is_valid(check: Check) -> None:
    """What docs/engines.md tells users to write, this vLLM takes."""
    page = (Path(__file__).parents[2] / "docs" / "engines.md").read_text()
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]
    assert len(blocks) >= 8
    for block in blocks:
        tier = TierConfig.model_validate({"name": "fast", "model_id": "m", **block})
        check(tier.name, tier.engine)


def test_the_schema_is_what_the_pinned_vllm_takes() -> None:
    """An upgrade of vLLM changes the file in the same commit."""
    written = engine_arguments.DOCUMENT.read_text()
    assert engine_arguments.render(engine_arguments.build_document()) == written


class Prepared(InstalledArguments):
    """vLLM's own types, each of them built once."""

    def __init__(self) -> None:
        self._adapters: dict[str, TypeAdapter[Any]] = {}

    def check_value(self, name: str, value: JsonValue) -> None:
        kind = self.types[name]
        adapter = self._adapters.setdefault(name, kind.adapter)
        adapter.validate_json(json.dumps(value), strict=kind.strict)


def choices(schema: object) -> Iterator[JsonValue]:
    """Every value that a schema names."""
    if isinstance(schema, dict):
        yield from schema["expected"] if schema.get("type") == "literal" else ()
        schema = list(schema.values())
    for part in schema if isinstance(schema, list) else ():
        yield from choices(part)


def fields(schema: dict[str, Any]) -> dict[str, Any]:
    """The keys of a nested config, none where it is no config."""
    for part in (schema, schema.get("schema", {}), *schema.get("choices", ())):
        if part.get("type") == "typed-dict":
            return dict(part["fields"])
    return fields(schema["schema"]) if "schema" in schema else {}


def test_both_ways_agree_on_every_argument() -> None:
    """They take and refuse the same values; a plain argument is refused with the same words."""
    installed, pinned = Prepared(), read_engine_arguments()
    for name, argument in pinned.arguments.items():
        for value in (*VALUES, *choices(argument.core)):
            said = [problem(known, name, value) for known in (installed, pinned)]
            assert bool(said[0]) == bool(said[1]), (name, value)
            if argument.strict:
                assert said[0] == said[1]


def test_both_ways_agree_on_every_key_of_a_nested_config() -> None:
    """Where vLLM refuses a key's type or choice, so does the schema, and the other way round."""
    installed, pinned = Prepared(), read_engine_arguments()
    nested = {name: fields(argument.core) for name, argument in pinned.arguments.items()}
    assert sum(map(len, nested.values())) > 100
    for name, keys in nested.items():
        for key in keys.keys() - BETWEEN_KEYS.get(name, set()):
            for value in (*VALUES, *choices(keys[key])):
                said = [problem(known, name, {key: value}) for known in (installed, pinned)]
                assert bool(said[0]) == bool(said[1]), (name, key, value)


def problem(known: Any, name: str, value: JsonValue) -> str:
    """What is said of a value; vLLM's own code may also fail over it."""
    try:
        check_engine_arguments("fast", {name: value}, known)
    except (ValueError, TypeError, KeyError) as error:
        return str(error)
    return ""


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's own import of it
@pytest.mark.parametrize(
    ("name", "temperature", "top_p"), [("fast", 0.7, 0.8), ("strong", 0.6, 0.95)]
)
def test_qwen3_samples_as_its_model_card_says(name: str, temperature: float, top_p: float) -> None:
    """vLLM itself, with a demo model, makes of the shipped keys what they are meant for."""
    path = Path(__file__).parents[2] / "configs" / "prod-qwen3.yaml"
    tier = next(tier for tier in read_serve_config(path).app.tiers if tier.name == name)
    keys = ("override_generation_config", "reasoning_config", "reasoning_parser")
    engine = _normalize_vllm_engine_kwargs({k: tier.engine[k] for k in keys if k in tier.engine})
    arguments = AsyncEngineArgs(model=str(demo.locate(name)), max_model_len=512, **engine)
    made = arguments.create_engine_config()
    sampling = made.model_config.get_diff_sampling_param()
    assert sampling == {"temperature": temperature, "top_p": top_p, "top_k": 20, "min_p": 0}
    reasoning = made.reasoning_config
    assert reasoning is not None
    assert reasoning.enabled, "without it a budget of thoughts is refused"
    natural = reasoning.natural_reasoning_end_token_ids or [-1]
    assert natural[0] in (reasoning.reasoning_end_token_ids or [])
