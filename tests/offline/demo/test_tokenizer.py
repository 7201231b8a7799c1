"""The tokenizer and the chat template, as transformers and vLLM read them."""

import json
from collections.abc import Callable
from itertools import chain

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from serve_app.demo import CHECKPOINTS
from serve_app.offline.demo.architecture import VOCAB_SIZE
from serve_app.offline.demo.batches import encode_conversations
from serve_app.offline.demo.skills.example import Message, ask
from serve_app.offline.demo.tokenizer import build_tokenizer, draw_corpus

TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
]


@pytest.fixture(scope="module")
def chat() -> PreTrainedTokenizerFast:
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(
        CHECKPOINTS / "fast"
    )
    return tokenizer


def render(chat: PreTrainedTokenizerFast, *messages: object, **kwargs: object) -> str:
    # The library's own annotation allows only messages that hold nothing but strings.
    apply: Callable[..., object] = chat.apply_chat_template
    text = apply(list(messages), tokenize=False, **{"add_generation_prompt": True, **kwargs})
    assert isinstance(text, str)
    return text


def test_it_is_the_same_each_time(tokenizer: Tokenizer) -> None:
    """Trained twice it is the same, so that a training that is resumed finds its own tokens."""
    assert build_tokenizer(draw_corpus()).to_str() == tokenizer.to_str()


def test_its_vocabulary_is_full(tokenizer: Tokenizer) -> None:
    """The embedding has a row for each token and none to spare."""
    assert tokenizer.get_vocab_size() == VOCAB_SIZE


# The fixture is read only, so it may be shared by all the texts.
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text())
def test_any_text_survives(tokenizer: Tokenizer, text: str) -> None:
    """Encoding and decoding give back the same characters, whatever they are."""
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("12 + 7 = 19", ["1", "2", " + ", "7", " = ", "1", "9"]),
        ("3, 22, 5", ["3", ", ", "2", "2", ", ", "5"]),
        ('"HOUSE"', ['"', "H", "O", "U", "S", "E", '"']),
        ("你好吗", ["你", "好", "吗"]),
    ],
)
def test_what_the_skills_need_is_visible(
    tokenizer: Tokenizer, text: str, tokens: list[str]
) -> None:
    """Digits, letters of words in capitals and Chinese characters stand alone."""
    assert [tokenizer.decode([i]) for i in tokenizer.encode(text).ids] == tokens


def test_transformers_keeps_the_text_as_it_is(chat: PreTrainedTokenizerFast) -> None:
    """Loading through transformers adds no normaliser: decomposed and rare characters stay."""
    text = "e\u0301 Å 你好🙂 def f():\r\n\treturn 1"
    assert chat.decode(chat.encode(text)) == text


@pytest.mark.parametrize("token", ["<|endoftext|>", "<|im_start|>", "<tool_call>", "</think>"])
def test_control_tokens_are_single(tokenizer: Tokenizer, token: str) -> None:
    """Parsers and stop conditions see each of them as one id."""
    assert len(tokenizer.encode(token).ids) == 1


def test_tool_call_tags_reach_the_parser(chat: PreTrainedTokenizerFast) -> None:
    """Skipping special tokens drops the turn's end but keeps the tags of tool calls."""
    ids = chat.encode("<tool_call>{}</tool_call><|im_end|>")
    assert chat.decode(ids, skip_special_tokens=True) == "<tool_call>{}</tool_call>"


def test_lessons_are_what_the_template_renders(
    tokenizer: Tokenizer, chat: PreTrainedTokenizerFast
) -> None:
    """Training and serving see the same tokens, and only what the assistant says is taught."""
    messages = (Message("system", "Be kind."), *ask("你好", "Hello!", "1 + 2?"))
    messages += (Message("assistant", "1 + 2 = 3"),)
    (lesson,) = encode_conversations(tokenizer, [messages])
    turns = [{"role": m.role, "content": m.content} for m in messages]
    assert lesson.ids == chat.encode(render(chat, *turns, add_generation_prompt=False))
    spoken = [i for i, said in zip(lesson.ids, lesson.spoken, strict=True) if said]
    answers = ("Hello!<|im_end|>", "1 + 2 = 3<|im_end|>")
    assert spoken == list(chain.from_iterable(tokenizer.encode(a).ids for a in answers))


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
