"""The Responses API's input as the messages that vLLM makes of it.

`tests/serve/local/test_dialects.py` holds the counts against those of `/v1/responses`.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from serve_app.core.errors import InvalidField, UpstreamFailed
from serve_app.gateway.token_count import render_count, render_tokenize

ASK = {"role": "user", "content": "Weather?"}
CALL = {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"}
CALLED = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
SAID = {"role": "assistant", "content": [{"type": "output_text", "text": "Hm"}]}
THOUGHT = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "?"}]}


def render(**document: Any) -> dict[str, Any]:
    rendered = json.loads(render_tokenize(document))
    assert isinstance(rendered, dict)
    return rendered


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ("Hi", [{"role": "user", "content": "Hi"}]),
        ([ASK], [ASK]),
        (
            [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}],
            [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
        ),
        (
            [{"role": "user", "content": [{"type": "input_image", "image_url": "data:x"}]}],
            [
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": {"url": "data:x"}}],
                }
            ],
        ),
        (
            [ASK, CALL, CALL, {"type": "function_call_output", "call_id": "c1", "output": "sun"}],
            [
                ASK,
                {"role": "assistant", "tool_calls": [CALLED, CALLED]},
                {"role": "tool", "tool_call_id": "c1", "content": "sun"},
            ],
        ),
        (
            [THOUGHT, SAID, CALL],
            [{"role": "assistant", "reasoning": "?", "content": "Hm", "tool_calls": [CALLED]}],
        ),
        ([SAID, SAID], [{"role": "assistant", "content": "Hm"}] * 2),
    ],
)
def test_input_becomes_messages(items: object, expected: list[dict[str, Any]]) -> None:
    """Item by item; what an assistant thought, said and called in a row is one message."""
    assert render(input=items)["messages"] == expected


def test_what_else_the_prompt_is_made_of() -> None:
    """Instructions, tools, effort and an unfinished last message count; other fields do not."""
    tool = {"type": "function", "name": "f", "parameters": {}, "strict": True}
    body = render(
        model="fast",
        instructions="Be brief.",
        input=[{**SAID, "status": "incomplete"}],
        tools=[tool, {"type": "web_search"}],
        reasoning={"effort": "none"},
        temperature=3,
    )
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    function = {"name": "f", "parameters": {}, "strict": True}
    assert body["tools"] == [{"type": "function", "function": function}]
    assert body["chat_template_kwargs"] == {"reasoning_effort": "none", "enable_thinking": False}
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)
    assert (body["model"], "temperature" in body) == ("fast", False)


@pytest.mark.parametrize(
    ("document", "param"),
    [
        ({}, "input"),
        ({"input": 5}, "input"),
        ({"input": []}, "input"),
        ({"input": [5]}, "input[0]"),
        ({"input": "x", "tools": {}}, "tools"),
    ],
)
def test_what_cannot_be_counted(document: dict[str, Any], param: str) -> None:
    """The field is named."""
    with pytest.raises(InvalidField) as raised:
        render_tokenize(document)
    assert raised.value.param == param


@pytest.mark.parametrize(
    "item",
    [
        {"role": "assistant", "content": 5},
        {"role": "assistant", "content": [5]},
        {"role": "assistant", "content": [{"text": 5}]},
        {"type": "reasoning"},
        {"type": "function_call"},
        {"type": "function_call_output"},
        {"role": 5, "content": [5, {"type": "input_file"}]},
        {"type": "function_call_output", "output": [{"type": []}]},
        {},
    ],
)
def test_odd_items_are_for_the_engine_to_refuse(item: dict[str, Any]) -> None:
    """They are passed on in some form."""
    assert len(render(input=[item], tools=[5, {"type": "function"}])["messages"]) == 1


def test_the_count() -> None:
    """OpenAI's object."""
    assert json.loads(render_count(b'{"count":3,"tokens":[1,2,3]}')) == {
        "object": "response.input_tokens",
        "input_tokens": 3,
    }


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"3"])
def test_no_count(body: bytes) -> None:
    """Anything else is the engine's failure."""
    with pytest.raises(UpstreamFailed):
        render_count(body)
