"""The demo checkpoints: their bytes, shapes, tokenizer and chat template, without an engine."""

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from serve_app.demo import MANIFEST, NAMES, CheckpointMissing, locate
from serve_app.demo.architecture import VOCAB_SIZE
from serve_app.demo.make import is_complete, main, make
from serve_app.demo.tokenizer import build_tokenizer, load_corpus

TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
]
TOKENIZER = build_tokenizer(load_corpus())


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoints")
    assert make(path) == ["fast", "strong"]
    return path


@pytest.fixture(scope="module")
def chat(root: Path) -> PreTrainedTokenizerFast:
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(root / "fast")
    return tokenizer


def render(chat: PreTrainedTokenizerFast, *messages: object, **kwargs: object) -> str:
    # The library's own annotation allows only messages that hold nothing but strings.
    apply: Callable[..., object] = chat.apply_chat_template
    text = apply(list(messages), tokenize=False, add_generation_prompt=True, **kwargs)
    assert isinstance(text, str)
    return text


def file_sums(checkpoint: Path) -> object:
    return json.loads((checkpoint / MANIFEST).read_text())["files"]


def test_made_twice_gives_the_same_bytes(root: Path, tmp_path: Path) -> None:
    """The sums of every file agree between two makes."""
    make(tmp_path)
    assert [file_sums(tmp_path / name) for name in NAMES] == [
        file_sums(root / name) for name in NAMES
    ]


def test_complete_checkpoints_are_left_alone(root: Path) -> None:
    """A second make has nothing to do."""
    assert make(root) == []


def test_nothing_to_do_needs_no_torch(root: Path) -> None:
    """The start of a service can run the command each time, as it is quick then."""
    script = (
        "import sys, pathlib; from serve_app.demo.make import make;"
        "assert make(pathlib.Path(sys.argv[1])) == [];"
        "assert not {'torch', 'tokenizers', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script, str(root)], check=True)


@pytest.mark.parametrize("damage", ["missing", "truncated", "no manifest", "other sources"])
def test_a_damaged_checkpoint_is_made_again(tmp_path: Path, damage: str) -> None:
    """Only the damaged one is replaced, what a dead maker left goes, and nothing else stays."""
    make(tmp_path)
    fast, left = tmp_path / "fast", tmp_path / ".building-dead"
    left.mkdir()
    match damage:
        case "missing":
            (fast / "model.safetensors").unlink()
        case "truncated":
            (fast / "model.safetensors").write_bytes(b"half")
        case "no manifest":
            (fast / MANIFEST).unlink()
        case "other sources":
            manifest = json.loads((fast / MANIFEST).read_text())
            (fast / MANIFEST).write_text(json.dumps(manifest | {"sources_sha256": "other"}))
    assert make(tmp_path) == ["fast"]
    assert is_complete(fast)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "fast", "strong"]


def test_force_makes_them_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command says what it made, with --force each time."""
    main([], root=tmp_path)
    assert capsys.readouterr().out.count("made ") == 2
    main([], root=tmp_path)
    assert capsys.readouterr().out == ""
    main(["--force"], root=tmp_path)
    assert capsys.readouterr().out.count("made ") == 2


def test_locate_finds_what_was_made(root: Path) -> None:
    """The path is the directory that an engine loads."""
    assert (locate("strong", root) / "config.json").is_file()


def test_locate_says_what_to_run(tmp_path: Path) -> None:
    """A missing checkpoint names the command that makes it, also after crossing a process."""
    with pytest.raises(FileNotFoundError, match=r"python -m serve_app\.demo\.make") as caught:
        locate("fast", tmp_path)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_locate_refuses_an_unknown_name(root: Path) -> None:
    """An unknown name lists the known ones, and no path can be smuggled in as a name."""
    with pytest.raises(CheckpointMissing, match=r"'../fast', only fast and strong"):
        locate("../fast", root)


@pytest.mark.parametrize(
    ("name", "parameters_min", "parameters_max"),
    [("fast", 1_000_000, 2_000_000), ("strong", 6_000_000, 10_000_000)],
)
def test_weights_fit_the_architecture(
    root: Path, name: str, parameters_min: int, parameters_max: int
) -> None:
    """Names and shapes are those of transformers' own Qwen3, in bfloat16, of the promised size."""
    tensors = load_file(root / name / "model.safetensors")
    with torch.device("meta"):
        model = Qwen3ForCausalLM(Qwen3Config.from_pretrained(root / name))
    expected = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    assert {key: tuple(tensor.shape) for key, tensor in tensors.items()} == expected
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert parameters_min <= sum(tensor.numel() for tensor in tensors.values()) <= parameters_max


@pytest.mark.parametrize("name", NAMES)
def test_two_workers_can_share_a_model(root: Path, name: str) -> None:
    """Everything that tensor parallelism splits divides by two."""
    config = json.loads((root / name / "config.json").read_text())
    split = ("num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size")
    assert [config[key] % 2 for key in split] == [0, 0, 0, 0]
    assert config["max_position_embeddings"] == 32768


def test_both_models_share_the_tokenizer(root: Path) -> None:
    """A prompt has as many tokens in one tier as in the other."""
    fast, strong = ((root / name / "tokenizer.json").read_bytes() for name in NAMES)
    assert fast == strong
    assert Tokenizer.from_str(fast.decode()).get_vocab_size() == VOCAB_SIZE


@given(st.text())
def test_any_text_survives_the_tokenizer(text: str) -> None:
    """Encoding and decoding give back the same characters, whatever they are."""
    assert TOKENIZER.decode(TOKENIZER.encode(text).ids, skip_special_tokens=False) == text


def test_transformers_keeps_the_text_as_it_is(chat: PreTrainedTokenizerFast) -> None:
    """Loading through transformers adds no normaliser: decomposed and rare characters stay."""
    text = "e\u0301 Å 你好🙂 def f():\r\n\treturn 1"
    assert chat.decode(chat.encode(text)) == text


def test_common_text_is_not_one_token_a_byte() -> None:
    """Prompts have a length in tokens like that of a real model, at least in kind."""
    text = "Please explain how the second machine answers a question about the price of energy."
    assert len(text) / len(TOKENIZER.encode(text).ids) > 3


@pytest.mark.parametrize("token", ["<|endoftext|>", "<|im_start|>", "<tool_call>", "</think>"])
def test_control_tokens_are_single(token: str) -> None:
    """Parsers and stop conditions see each of them as one id."""
    assert len(TOKENIZER.encode(token).ids) == 1


def test_tool_call_tags_reach_the_parser(chat: PreTrainedTokenizerFast) -> None:
    """Skipping special tokens drops the turn's end but keeps the tags of tool calls."""
    ids = chat.encode("<tool_call>{}</tool_call><|im_end|>")
    assert chat.decode(ids, skip_special_tokens=True) == "<tool_call>{}</tool_call>"


def test_template_renders_many_turns(chat: PreTrainedTokenizerFast) -> None:
    """Each turn stands in its own ChatML frame and the prompt ends where the answer begins."""
    assert render(
        chat,
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "Why?"},
    ) == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nYes?<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("thinking", [True, False])
def test_template_has_no_think_block(chat: PreTrainedTokenizerFast, thinking: bool) -> None:
    """A client that switches thinking on or off gets the same prompt."""
    turn = {"role": "user", "content": "Hi"}
    assert render(chat, turn, enable_thinking=thinking) == render(chat, turn)


@pytest.mark.parametrize("role", ["system", "developer"])
def test_template_puts_tools_under_the_system_text(
    chat: PreTrainedTokenizerFast, role: str
) -> None:
    """There is one system turn, with the caller's text before the signatures."""
    text = render(
        chat, {"role": role, "content": "Be kind."}, {"role": "user", "content": "?"}, tools=TOOLS
    )
    assert text.startswith("<|im_start|>system\nBe kind.\n\n# Tools\n")
    assert f"<tools>\n{json.dumps(TOOLS[0])}\n</tools>" in text
    assert text.count("<|im_start|>system") == 1


def test_template_offers_tools_without_a_system_turn(chat: PreTrainedTokenizerFast) -> None:
    """The signatures bring their own system turn."""
    text = render(chat, {"role": "user", "content": "?"}, tools=TOOLS)
    assert text.startswith("<|im_start|>system\n# Tools\n")


@pytest.mark.parametrize("arguments", [{"city": "Paris"}, '{"city": "Paris"}'])
def test_template_renders_tool_calls_and_results(
    chat: PreTrainedTokenizerFast, arguments: object
) -> None:
    """Calls take the Hermes form, and results that follow each other share a user turn."""
    call = {"type": "function", "function": {"name": "get_weather", "arguments": arguments}}
    hermes = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
    text = render(
        chat,
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": None, "tool_calls": [call, call]},
        {"role": "tool", "content": "sunny"},
        {"role": "tool", "content": "windy"},
    )
    assert f"<|im_start|>assistant\n{hermes}\n{hermes}<|im_end|>\n" in text
    assert (
        "<|im_start|>user\n<tool_response>\nsunny\n</tool_response>\n"
        "<tool_response>\nwindy\n</tool_response><|im_end|>\n"
    ) in text
