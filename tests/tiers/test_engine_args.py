"""Engine arguments are checked by the pinned vLLM itself, before anything starts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.llm._internal.serve.engines.vllm.vllm_engine import _normalize_vllm_engine_kwargs
from vllm.engine.arg_utils import AsyncEngineArgs

from serve_app import demo
from serve_app.config.load import load_serve_config
from serve_app.config.tiers import TierConfig
from serve_app.tiers.engine_args import OURS, check_engine_args, known_engine_args


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
def test_valid_arguments_pass(engine: dict[str, Any]) -> None:
    """Numbers, switches, choices, maps and lists are taken as YAML gives them."""
    check_engine_args("fast", engine)


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
        ({"max_model_len": None}, "null is no value here; leave the key out for vLLM's default$"),
        ({"enable_prefix_caching": "yes"}, "expected true or false, not 'yes'$"),
        ({"revision": 5}, r"expected text \(in quotes\), not 5$"),
        ({"attention_backend": 5}, r"expected text \(in quotes\), not 5$"),
        ({"lora_dtype": 5}, r"expected text \(in quotes\), not 5$"),
        ({"quantization": "bitsandbytes"}, "not a method of this vLLM, which has awq, "),
        ({"quantization_config": 5}, "expected a map, not 5$"),
        ({"eplb_config": {"window_size": 0}}, "window_size: expected greater than 0, not 0$"),
    ],
)
def test_a_wrong_argument_is_named(engine: dict[str, Any], words: str) -> None:
    """One line names tier and key, what was expected and what is there."""
    (key,) = engine
    with pytest.raises(ValueError, match=rf"^tiers\.fast\.engine\.{key}: .*{words}"):
        check_engine_args("fast", engine)


def test_one_wrong_argument_among_many_is_found() -> None:
    """Valid neighbours do not hide it."""
    with pytest.raises(ValueError, match="max_num_seqs"):
        check_engine_args("strong", {"dtype": "auto", "max_num_seqs": "many", "seed": 1})


@pytest.mark.parametrize(("key", "instead"), OURS.items())
def test_our_own_arguments_are_refused(key: str, instead: str) -> None:
    """What the application sets itself is refused, with what takes its place."""
    with pytest.raises(ValueError, match=rf"engine\.{key}: set here by us") as caught:
        check_engine_args("fast", {key: "x"})
    assert instead in str(caught.value)


def test_our_own_arguments_exist() -> None:
    """The list of refused keys follows the pinned vLLM."""
    assert set(OURS) <= known_engine_args().keys()


def test_every_block_of_the_engine_page_is_valid() -> None:
    """What docs/engines.md tells users to write, this vLLM takes."""
    page = (Path(__file__).parents[2] / "docs" / "engines.md").read_text()
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]
    assert len(blocks) >= 8
    for block in blocks:
        tier = TierConfig.model_validate({"name": "fast", "model_id": "m", **block})
        check_engine_args(tier.name, tier.engine)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's own import of it
@pytest.mark.parametrize(
    ("name", "temperature", "top_p"), [("fast", 0.7, 0.8), ("strong", 0.6, 0.95)]
)
def test_qwen3_samples_as_its_model_card_says(name: str, temperature: float, top_p: float) -> None:
    """vLLM itself, with a demo model, makes of the shipped keys what they are meant for."""
    path = Path(__file__).parents[2] / "configs" / "prod-qwen3.yaml"
    tier = next(tier for tier in load_serve_config(path).app.tiers if tier.name == name)
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
