"""Facts by name, by directory and by a tier's config."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serve_app.offline.planning.memory import Weights
from serve_app.offline.planning.models import find_model, list_models, parse_config, read_model
from serve_app.offline.planning.planning_errors import PlanningFailed, SchemeUnknown
from serve_app.offline.planning.quantization import choose_scheme, find_scheme
from serve_app.offline.planning.resolve import resolve_model
from tests.offline.planning.reference import build_config
from tests.offline.planning.tiers import facts, tier

CONFIG: dict[str, Any] = {
    "model_type": "qwen3",
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 128,
    "vocab_size": 1000,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
}


def write(directory: Path, **changes: Any) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    return directory


@pytest.mark.parametrize(
    ("name", "model", "positions", "scheme"),
    [
        ("Qwen/Qwen2.5-72B-Instruct", "Qwen2.5-72B", 32768, "bf16"),
        ("Qwen/Qwen2.5-72B", "Qwen2.5-72B", 32768, "bf16"),
        ("Qwen/Qwen2.5-72B-Base", "Qwen2.5-72B", 131072, "bf16"),
        ("/models/Qwen2.5-7B-Instruct-AWQ/", "Qwen2.5-7B", 32768, "awq-int4"),
        ("Qwen/Qwen2.5-7B-Instruct-GPTQ-Int8", "Qwen2.5-7B", 32768, "gptq-int8"),
        ("Qwen/Qwen3-8B-FP8", "Qwen3-8B", 40960, "fp8-block"),
        ("Qwen/Qwen3-8B-Base", "Qwen3-8B", 32768, "bf16"),
        ("Qwen/Qwen3-30B-A3B-Instruct-2507-FP8", "Qwen3-30B-A3B", 262144, "fp8-block"),
        ("s3://bucket/Qwen3-4B-Thinking-2507", "Qwen3-4B", 262144, "bf16"),
        ("Qwen/Qwen2.5-Coder-32B-Instruct-AWQ", "Qwen2.5-Coder-32B", 32768, "awq-int4"),
        ("Qwen/QwQ-32B", "QwQ-32B", 40960, "bf16"),
        ("Qwen/Qwen3-Coder-480B-A35B-Instruct-FP8", "Qwen3-Coder-480B-A35B", 262144, "fp8-block"),
        ("Qwen/Qwen3-Next-80B-A3B-Thinking", "Qwen3-Next-80B-A3B", 262144, "bf16"),
        ("Qwen/Qwen2.5-VL-7B-Instruct", "Qwen2.5-VL-7B", 128000, "bf16"),
        ("Qwen/Qwen3-VL-30B-A3B-Instruct", "Qwen3-VL-30B-A3B", 262144, "bf16"),
        ("openai/gpt-oss-120b", "gpt-oss-120b", 131072, "mxfp4-experts"),
        ("meta-llama/Llama-3.3-70B-Instruct", "Llama-3.3-70B", 131072, "bf16"),
        ("RedHatAI/Llama-3.3-70B-Instruct-FP8", "Llama-3.3-70B", 131072, "fp8-file"),
        ("meta-llama/Meta-Llama-3.1-8B-Instruct", "Llama-3.1-8B", 131072, "bf16"),
    ],
)
def test_a_name_says_the_model(name: str, model: str, positions: int, scheme: str) -> None:
    """Kind and quantisation are read from the name as Qwen gives it."""
    found = find_model(name)
    assert found is not None
    assert (found[0].name, found[0].positions) == (model, positions)
    assert choose_scheme(None, found[1], {}).name == scheme


@pytest.mark.parametrize(
    "name",
    [
        "meta/Llama-2-7b",
        "Llama-4-70B",
        "gpt-oss-7b",
        "Qwen/Qwen2.5-9B",
        "Qwen3-8B-Instruct-2507",
        "Qwen3-8B-GGUF",
        "Qwen2-7B",
    ],
)
def test_an_unknown_name_is_not_guessed(name: str) -> None:
    """Neither another size, nor a kind that there never was."""
    assert find_model(name) is None


def test_a_directory_says_it_itself(tmp_path: Path) -> None:
    """Its config.json wins over its name."""
    directory = write(tmp_path / "Qwen2.5-7B-Instruct", attention_bias=False)
    resolved = resolve_model(tier("x", model_source=str(directory)))
    assert (resolved.facts.layers, resolved.facts.hidden, resolved.facts.qk_norm) == (2, 64, True)
    assert resolved.facts.source.endswith("config.json")


@pytest.mark.parametrize(
    ("stated", "scheme", "bits"),
    [
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "awq-int4", 4.15625),
        ({"quant_method": "gptq", "bits": 4, "group_size": 32}, "gptq-int4", 4.625),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1}, "gptq-int8", 8),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8-block", 8 + 32 / 128**2),
        ({"quant_method": "fp8"}, "fp8-file", 8),
    ],
)
def test_a_checkpoint_says_its_quantisation(
    tmp_path: Path, stated: dict[str, Any], scheme: str, bits: float
) -> None:
    """Bits, group and block of quantization_config count, whatever the engine is told."""
    _, read = read_model(write(tmp_path / "m", quantization_config=stated))
    found = choose_scheme("fp8", None, read)
    assert (found.name, found.bits) == (scheme, bits)


def compress(weights: dict[str, Any], inputs: dict[str, Any] | None = None) -> dict[str, Any]:
    """A quantization_config as llm-compressor writes it."""
    group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs}
    return {
        "quant_method": "compressed-tensors",
        "ignore": ["lm_head", "model.layers.0.mlp.gate", "re:visual.*"],
        "config_groups": {"group_0": group},
    }


FLOAT8, INT8 = ({"num_bits": 8, "type": kind, "strategy": "token"} for kind in ("float", "int"))
INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128}


@pytest.mark.parametrize(
    ("stated", "scheme", "bits", "compute"),
    [
        (compress({"num_bits": 8, "type": "float"}, FLOAT8), "fp8-file", 8, "fp8"),
        (compress({"num_bits": 8, "type": "float"}), "w8a16-fp8", 8, "bf16"),
        (compress({"num_bits": 8, "type": "int"}, INT8), "int8", 8, "int8"),
        (compress({**INT4, "symmetric": True}), "w4a16", 4 + 16 / 128, "bf16"),
        (compress({**INT4, "symmetric": False}), "w4a16", 4 + 20 / 128, "bf16"),
        (compress({"num_bits": 8, "type": "int"}), "w8a16", 8, "bf16"),
    ],
)
def test_a_compressed_checkpoint_says_its_quantisation(
    stated: dict[str, Any], scheme: str, bits: float, compute: str
) -> None:
    """Of llm-compressor's recipes the usual ones; the KV cache's group is passed over."""
    stated["config_groups"]["group_1"] = {"targets": ["Qwen3Attention"], "weights": None}
    found = choose_scheme("compressed-tensors", None, stated)
    assert (found.name, found.bits, found.compute) == (scheme, bits, compute)


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        (compress({**INT4, "num_bits": 2}), "without weights of 4 or 8 bits"),
        (compress(INT4, INT8), "int4 weights and int8 activations"),
        ({**compress(INT4), "ignore": ["lm_head", "model.layers.0.mlp.gate_proj"]}, "stay in 16"),
        ({"quant_method": "compressed-tensors"}, "0 different groups"),
    ],
)
def test_a_compressed_checkpoint_that_cannot_be_planned(stated: dict[str, Any], words: str) -> None:
    """It says what is not known, and that --quantization helps."""
    with pytest.raises(SchemeUnknown, match=rf"{words}.*--quantization"):
        choose_scheme(None, None, stated)


@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        ("RedHatAI/Qwen2.5-72B-Instruct-FP8-dynamic", "fp8-file"),
        ("RedHatAI/Qwen2.5-72B-Instruct-quantized.w8a8", "int8"),
        ("RedHatAI/Qwen2.5-7B-Instruct-quantized.w4a16", "w4a16"),
    ],
)
def test_names_of_compressed_checkpoints(name: str, scheme: str) -> None:
    """The engine is told `compressed-tensors`, or nothing; the name says the rest."""
    found = find_model(name)
    assert found is not None
    assert choose_scheme("compressed-tensors", found[1], {}).name == scheme


def test_int8_weights_online_are_of_experts_alone() -> None:
    """As the pinned vLLM's shorthand says: it has no part for linear layers."""
    from vllm.config.quantization import resolve_quantization_config

    theirs = resolve_quantization_config("int8_per_channel_weight_only", None)
    assert theirs is not None
    found = choose_scheme("int8_per_channel_weight_only", None, {})
    assert (found.experts_only, found.online) == (theirs.linear is None, True)
    weights = Weights(packed=300, plain=10, read_plain=10, experts=200)
    assert weights.bytes(found, 2) == 200 * 1 + 100 * 2 + 10 * 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "mamba"}, "model_type 'mamba' cannot be planned; known are qwen2"),
        ({"num_hidden_layers": "2"}, "num_hidden_layers: expected a whole number"),
        ({"hidden_size": None}, "hidden_size: expected a whole number"),
        ({"model_type": "qwen3_moe"}, "num_experts: expected"),
        ({"vocab_size": True}, "vocab_size: expected"),
        ({"rope_scaling": {"type": "yarn", "factor": "4"}}, "rope_scaling.factor: expected"),
    ],
)
def test_a_config_that_cannot_be_used(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    """The key and what belongs there."""
    with pytest.raises(PlanningFailed, match=words):
        read_model(write(tmp_path / "m", **changes))


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    """It is not taken for a model of no parameters."""
    (write(tmp_path / "m") / "config.json").write_text("{")
    with pytest.raises(PlanningFailed, match=r"config\.json: not valid JSON"):
        read_model(tmp_path / "m")


def test_scaled_positions() -> None:
    """YaRN multiplies the original positions, as vLLM does."""
    yarn = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    assert parse_config({**CONFIG, "rope_scaling": yarn}, "m").positions == 131072


def test_a_mixture_with_dense_layers_is_refused() -> None:
    """Counting all layers as experts would be wrong."""
    moe = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    config = {**CONFIG, "model_type": "qwen3_moe", **moe}
    assert parse_config(config, "m").active_experts == 2
    with pytest.raises(ValueError, match="mlp_only_layers"):
        parse_config({**config, "mlp_only_layers": [0]}, "m")


def test_an_unknown_model_is_a_clear_failure() -> None:
    """It says what to do, and which models need nothing done."""
    with pytest.raises(PlanningFailed, match=r"tiers\.fast: .*config\.json.*Qwen3-32B"):
        resolve_model(tier("meta/Llama-2-7b"))
    with pytest.raises(PlanningFailed, match="only fast, strong, embed and rerank"):
        resolve_model(tier("x", model_source="demo:huge"))


@pytest.mark.parametrize("name", list_models())
def test_a_config_says_what_the_table_says(name: str) -> None:
    """The pinned transformers' own config of each model, written and read, gives the same facts."""
    shipped = facts(name)
    found = parse_config(build_config(name).to_dict(), name)
    assert replace(found, source=shipped.source, quantized_intermediate=None) == replace(
        shipped, quantized_intermediate=None
    )


def test_padding_is_that_of_the_quantised_checkpoints() -> None:
    """72B: Qwen pads 29,568 to 29,696, which eight GPUs divide into whole groups."""
    assert facts("Qwen2.5-72B").quantized_intermediate == 232 * 128


@pytest.mark.parametrize("name", ["int3", "", "AWQ"])
def test_an_unknown_quantisation(name: str) -> None:
    """The known ones are listed."""
    with pytest.raises(PlanningFailed, match="known are bf16, fp16, fp8"):
        find_scheme(name)


@pytest.mark.parametrize("name", ["compressed-tensors", "torchao", "quark"])
def test_an_engine_name_that_says_no_bits(name: str) -> None:
    """vLLM finds them in the checkpoint, and so must the plan."""
    with pytest.raises(PlanningFailed, match="does not determine the bits"):
        choose_scheme(name, None, {})
