"""Engine arguments are checked by the pinned vLLM itself, before anything starts."""

from __future__ import annotations

import pytest

from serve_app.tiers.engine_args import OURS, check_engine_args, known_engine_args


@pytest.mark.parametrize(
    "engine",
    [
        {},
        {"dtype": "bfloat16", "max_model_len": 4096, "enforce_eager": True},
        {"enable_prefix_caching": False, "gpu_memory_utilization": 0.9},
        {"enable_auto_tool_choice": True, "tool_call_parser": "hermes"},
        {"default_chat_template_kwargs": {"enable_thinking": False}},
        {"limit_mm_per_prompt": {"image": 2}, "lora_modules": ["a=b"]},
    ],
)
def test_valid_arguments_pass(engine: dict[str, object]) -> None:
    """Numbers, switches, choices, maps and lists are taken as YAML gives them."""
    check_engine_args("fast", engine)


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        ({"max_model_length": 1}, "did you mean 'max_model_len'"),
        ({"tensor_paralel_size": 2}, "did you mean 'tensor_parallel_size'"),
        ({"zzzzqqq": 1}, "not an argument of this vLLM$"),
        ({"tensor_parallel_size": "two"}, "'two'"),
        ({"max_num_seqs": 1.5}, "'1.5'"),
        ({"gpu_memory_utilization": "high"}, "'high'"),
        ({"enable_prefix_caching": "yes"}, "yes"),
        ({"dtype": "bfloat17"}, "'bfloat17'.*bfloat16"),
        ({"compilation_config": {"no_such_key": 3}}, "no_such_key"),
    ],
)
def test_a_wrong_argument_is_named(engine: dict[str, object], words: str) -> None:
    """The message names tier and key, and what is wrong with the value."""
    (key,) = engine
    with pytest.raises(ValueError, match=rf"(?s)^tiers\.fast\.engine\.{key}: .*{words}"):
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
    assert set(OURS) <= known_engine_args()
