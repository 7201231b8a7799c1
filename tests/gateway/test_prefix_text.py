"""The canonical text of prompts in every dialect."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.call import Endpoint
from serve_app.core.prefix import NO_KEYS, PrefixKeys
from serve_app.gateway.prefix_text import digest_media, read_prefix_keys
from serve_app.gateway.wire import parse_call

Json = dict[str, Any]

LONG = "All of this is a long text about rivers and bridges. " * 40
OTHER = "And this is another text, about mountains and snow. " * 40
PICTURE = "data:image/png;base64," + "iVBORw0KGgo" * 5000


def chat(*turns: Json, **fields: Any) -> PrefixKeys:
    return read_prefix_keys({"messages": list(turns), **fields})


def user(content: object, **fields: Any) -> Json:
    return {"role": "user", "content": content, **fields}


def answer(content: object, **fields: Any) -> Json:
    return {"role": "assistant", "content": content, **fields}


def begins(long: PrefixKeys, short: PrefixKeys) -> bool:
    return bool(short.keys) and long.keys[: len(short.keys)] == short.keys


def differ(*all_keys: PrefixKeys) -> bool:
    return len({keys.keys[0] for keys in all_keys}) == len(all_keys)


messages = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["user", "assistant", "tool"]),
            "content": st.text(max_size=40).map(lambda text: text * 30)
            | st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": st.text()})),
        },
        optional={"tool_calls": st.just([{"function": {"name": "f", "arguments": "{}"}}])},
    ),
    min_size=1,
    max_size=6,
)


@given(messages, messages)
def test_a_longer_conversation_keeps_the_keys(before: list[Json], more: list[Json]) -> None:
    """The text of a message does not depend on what follows it."""
    short, long = chat(*before), chat(*before, *more)
    assert long.keys[: len(short.keys)] == short.keys


@pytest.mark.parametrize(
    ("short", "long"),
    [
        (
            {"messages": [user(LONG)]},
            {"messages": [user(LONG), answer("yes"), user("why?")]},
        ),
        (
            {"system": LONG, "messages": [user("a")]},
            {"system": LONG, "messages": [user("a"), answer([{"type": "text", "text": "b"}])]},
        ),
        ({"prompt": LONG}, {"prompt": LONG + OTHER}),
        ({"prompt": list(range(900))}, {"prompt": list(range(1900))}),
        ({"instructions": LONG, "input": "a"}, {"instructions": LONG, "input": "b"}),
        (
            {"input": [user(LONG)]},
            {
                "input": [
                    user(LONG),
                    {"type": "reasoning", "content": [{"text": "hm"}]},
                    {"type": "function_call", "name": "f", "arguments": "{}", "call_id": "1"},
                    {"type": "function_call_output", "call_id": "1", "output": OTHER},
                ]
            },
        ),
    ],
    ids=["chat", "messages", "completion", "token ids", "instructions", "items"],
)
def test_every_dialect_grows_by_appending(short: Json, long: Json) -> None:
    """The next turn of a conversation begins with the keys of the turn before."""
    before, after = read_prefix_keys(short), read_prefix_keys(long)
    assert begins(after, PrefixKeys(before.keys[:7], before.size_bytes))


def test_the_same_prompt_in_two_dialects_is_the_same_text() -> None:
    """A system prompt is a message in one API and a field in others."""
    openai = chat({"role": "system", "content": LONG}, user(OTHER))
    anthropic = read_prefix_keys({"system": LONG, "messages": [user(OTHER)]})
    responses = read_prefix_keys({"instructions": LONG, "input": OTHER})
    assert openai == anthropic == responses


def test_marks_for_caches_are_no_text() -> None:
    """Clients of Anthropic's API move `cache_control` from message to message."""
    mark = {"type": "ephemeral"}
    tool = {"name": "f", "input_schema": {"type": "object", "description": LONG}}
    part = {"type": "text", "text": OTHER}
    result = {"type": "tool_result", "tool_use_id": "1", "content": LONG}
    marked = chat(
        user([{**part, "cache_control": mark}]),
        user([{**result, "cache_control": mark}]),
        tools=[{**tool, "cache_control": mark}],
    )
    assert marked == chat(user(OTHER), user([result]), tools=[tool])


def test_thoughts_are_no_text() -> None:
    """Templates leave earlier thoughts out, whether or not the client sends them back."""
    thought = {"type": "thinking", "thinking": OTHER, "signature": "s"}
    said = {"type": "text", "text": LONG}
    assert chat(answer([thought, said], reasoning=OTHER)) == chat(answer(LONG))


@pytest.mark.parametrize(
    "fields",
    [
        {"cache_salt": "s"},
        {"tools": [{"type": "function", "function": {"name": "f", "description": LONG}}]},
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"reasoning_effort": "low"},
        {"documents": [{"text": "d"}]},
    ],
)
def test_what_shapes_the_beginning_parts_the_keys(fields: Json) -> None:
    """Salts part caches; tools and the template's variables change the prompt."""
    assert differ(chat(user(LONG)), chat(user(LONG), **fields))


def test_roles_and_tool_calls_are_text() -> None:
    """What the template writes beside the messages' text parts the keys too."""
    call = {"function": {"name": "f", "arguments": '{"a": 1}'}}
    other = {"function": {"name": "f", "arguments": '{"a": 2}'}}
    assert differ(
        chat(user(LONG)),
        chat(answer(LONG)),
        chat(answer(None, tool_calls=[call]), user(LONG)),
        chat(answer(None, tool_calls=[other]), user(LONG)),
    )


def test_a_picture_enters_as_its_digest() -> None:
    """Its bytes do not weigh as text, and two pictures differ."""

    def picture(url: str) -> PrefixKeys:
        return chat(user([{"type": "image_url", "image_url": {"url": url}}, {"text": LONG}]))

    keys = picture(PICTURE)
    assert keys.size_bytes < len(digest_media(PICTURE)) + len(LONG) + 200
    assert picture(PICTURE) == keys
    assert picture(PICTURE + "A").keys[1:2] != keys.keys[1:2]


@pytest.mark.parametrize(
    "document",
    [{}, {"messages": [{"role": "user"}]}, {"prompt": []}, {"input": ["a"]}, {"messages": ["a"]}],
)
def test_any_body_has_keys_or_none(document: Json) -> None:
    """A body that another check rejects later is no error here."""
    assert read_prefix_keys(document).keys == ()


def test_a_deeply_nested_body_has_no_keys() -> None:
    """The keys are worth no error."""
    nested: Json = {}
    for _ in range(5000):
        nested = {"a": nested}
    assert chat(user([nested])) == NO_KEYS


def test_a_call_has_the_keys_of_its_body() -> None:
    """The keys are those of the prompt, whichever model gets it."""
    body = orjson.dumps({"model": "auto", "messages": [user(LONG)]})
    call = parse_call(Endpoint.CHAT, body, request_id="r", tier=None)
    assert call.payload.prefix_keys() == chat(user(LONG))
    assert call.payload.prefix_keys() is call.payload.prefix_keys()
