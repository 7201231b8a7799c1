"""From wire formats to calls: any body is read or refused, and nothing in it is lost."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.config.bodies import BodiesConfig
from serve_app.core.call import AUTO, Call, Endpoint, Policy, Turn
from serve_app.core.errors import BadRequest, InvalidField, MalformedBody
from serve_app.gateway.fields import FIELDS as TABLES
from serve_app.gateway.wire import DEFAULT_BODIES, detect_endpoint, parse_call, parse_json
from serve_app.routing.features import list_asks
from tests.pictures import data_url, image_part, picture

USER = {"role": "user", "content": "Hi"}
IMAGE: dict[str, Any] = image_part(data_url(picture()))
SOURCE = {
    "type": "base64",
    "media_type": "image/png",
    "data": IMAGE["image_url"]["url"].partition(",")[2],
}
INT64_MAX = 2**63 - 1

FIELDS = [
    "model", "messages", "prompt", "input", "system", "instructions", "role", "content", "type",
    "text", "format", "image", "tools", "stream", "stream_options", "include_usage", "output",
    "response_format", "structured_outputs", "json_schema", "max_tokens", "reasoning", "user",
]  # fmt: skip

KNOWN = {name for table in TABLES.values() for name in table}

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(FIELDS)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-INT64_MAX, INT64_MAX)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
)
documents = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=6),
    max_leaves=16,
)
objects = st.dictionaries(st.sampled_from(FIELDS), documents, max_size=8)
endpoints = st.sampled_from(Endpoint)
PROMPTS: dict[Endpoint, dict[str, Any]] = {
    Endpoint.CHAT: {"messages": [USER]},
    Endpoint.MESSAGES: {"messages": [USER], "system": "Be brief."},
    Endpoint.COUNT_TOKENS: {"messages": [USER]},
    Endpoint.COMPLETIONS: {"prompt": "Hi"},
    Endpoint.RESPONSES: {"input": "Hi"},
    Endpoint.INPUT_TOKENS: {"input": "Hi"},
    Endpoint.TOKENIZE: {"prompt": "Hi"},
    Endpoint.DETOKENIZE: {"tokens": [1, 2]},
    Endpoint.EMBEDDINGS: {"input": ["a", "b"]},
    Endpoint.RERANK: {"query": "a", "documents": ["b", "c"]},
    Endpoint.SCORE: {"queries": "a", "documents": ["b", "c"]},
}
valid_prompts = st.sampled_from(list(PROMPTS.items()))
other_fields = st.dictionaries(
    texts.filter(lambda key: key not in FIELDS and key not in KNOWN), documents, max_size=4
)
PASSING = BodiesConfig(unknown_fields="pass")


def parse(endpoint: Endpoint, document: object, bodies: BodiesConfig = DEFAULT_BODIES) -> Call:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return parse_call(endpoint, body, request_id="r", tier=None, bodies=bodies)


def parses_or_refuses(endpoint: Endpoint, document: object) -> None:
    try:
        call = parse(endpoint, document)
        sent = json.loads(call.payload.for_model("m", "fast"))
    except BadRequest:
        return
    assert call.endpoint is endpoint
    assert sent["model"] == "m"


@given(endpoints, st.binary(max_size=64))
def test_any_bytes_are_read_or_refused(endpoint: Endpoint, body: bytes) -> None:
    """Noise gives a 400 that says so, never another exception."""
    parses_or_refuses(endpoint, body)


@given(endpoints, documents | objects)
def test_any_json_is_read_or_refused(endpoint: Endpoint, document: object) -> None:
    """Whatever stands in the fields that are read, the body becomes a call or a 400."""
    parses_or_refuses(endpoint, document)


@pytest.mark.parametrize("endpoint", Endpoint)
@pytest.mark.parametrize("depth", [200, 300, 100_000])
def test_deep_nesting_is_read_or_refused(endpoint: Endpoint, depth: int) -> None:
    """Nesting that a parser or writer gives up on is the caller's error, not ours."""
    head = b'{"messages":[{"role":"user","content":"x"}],"prompt":"x","input":"x","extra":'
    parses_or_refuses(endpoint, head + b"[" * depth + b"]" * depth + b"}")


@given(valid_prompts, other_fields, st.booleans(), st.none() | texts)
def test_every_other_field_is_forwarded(
    prompt: tuple[Endpoint, dict[str, Any]],
    fields: dict[str, Any],
    stream: bool,
    model: str | None,
) -> None:
    """Where unknown fields pass, the engine gets the body as it was sent, but for the model and the
    usage we ask for."""
    endpoint, base = prompt
    document = {**fields, **base, "model": model}
    if endpoint.generates:
        document["stream"] = stream
    call = parse(endpoint, document, PASSING)
    expected = {**document, "model": "engine-id"}
    if call.adds_usage:
        expected["stream_options"] = {"include_usage": True}
    assert json.loads(call.payload.for_model("engine-id", "fast")) == expected
    assert call.model == (model or AUTO)
    assert call.stream is (stream and endpoint.generates)


@pytest.mark.parametrize(
    ("endpoint", "fields", "adds", "options"),
    [
        (Endpoint.CHAT, {"stream": True}, True, {"include_usage": True}),
        (Endpoint.COMPLETIONS, {"stream": True}, True, {"include_usage": True}),
        (
            Endpoint.CHAT,
            {"stream": True, "stream_options": {"include_usage": False, "x": 1}},
            True,
            {"include_usage": True, "x": 1},
        ),
        (
            Endpoint.CHAT,
            {"stream": True, "stream_options": {"include_usage": True}},
            False,
            {"include_usage": True},
        ),
        (Endpoint.CHAT, {"stream": True, "stream_options": None}, True, {"include_usage": True}),
        (Endpoint.CHAT, {"stream": False}, False, None),
        (Endpoint.CHAT, {}, False, None),
        (Endpoint.RESPONSES, {"stream": True}, False, None),
        (Endpoint.MESSAGES, {"stream": True}, False, None),
    ],
)
def test_usage_is_asked_for_once(
    endpoint: Endpoint, fields: dict[str, Any], adds: bool, options: dict[str, Any] | None
) -> None:
    """Only a stream that would hide its token counts is asked for them, in the dialects that do."""
    call = parse(endpoint, {**PROMPTS[endpoint], **fields})
    assert call.adds_usage is adds
    assert json.loads(call.payload.for_model("m", "fast")).get("stream_options") == options


@pytest.mark.parametrize(
    ("endpoint", "document", "turns", "images"),
    [
        (Endpoint.CHAT, {"messages": [USER]}, [("user", "Hi")], 0),
        (
            Endpoint.CHAT,
            {"messages": [{"role": "system", "content": "S"}, USER, {"role": "assistant"}]},
            [("system", "S"), ("user", "Hi"), ("assistant", "")],
            0,
        ),
        (
            Endpoint.CHAT,
            {
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": "a"}, IMAGE, "b"]},
                    {"role": "user", "content": [IMAGE]},
                ]
            },
            [("user", "a\nb"), ("user", "")],
            2,
        ),
        (
            Endpoint.MESSAGES,
            {
                "system": [{"type": "text", "text": "S"}, {"type": "text", "text": "T"}],
                "messages": [
                    {"role": "user", "content": [{"type": "image", "source": SOURCE}]},
                    {"role": "user", "content": [{"type": "tool_result", "content": "42"}]},
                ],
            },
            [("system", "S\nT"), ("user", ""), ("tool", "42")],
            1,
        ),
        (
            Endpoint.COUNT_TOKENS,
            {"system": "S", "messages": [USER]},
            [("system", "S"), ("user", "Hi")],
            0,
        ),
        (Endpoint.COMPLETIONS, {"prompt": "Hi"}, [("user", "Hi")], 0),
        (Endpoint.COMPLETIONS, {"prompt": ["a", "b"]}, [("user", "a"), ("user", "b")], 0),
        (Endpoint.COMPLETIONS, {"prompt": [1, 2, 3]}, [], 0),
        (
            Endpoint.RESPONSES,
            {"instructions": "S", "input": "Hi"},
            [("system", "S"), ("user", "Hi")],
            0,
        ),
        (
            Endpoint.RESPONSES,
            {
                "input": [
                    {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
                    {"content": [{"type": "input_image", "image_url": IMAGE["image_url"]["url"]}]},
                    {"type": "function_call_output", "output": "42"},
                    {"type": "function_call", "name": "f"},
                ]
            },
            [("user", "a"), ("user", ""), ("tool", "42"), ("assistant", "")],
            1,
        ),
        (Endpoint.TOKENIZE, {"prompt": "Hi"}, [("user", "Hi")], 0),
        (Endpoint.TOKENIZE, {"messages": [USER]}, [("user", "Hi")], 0),
        (Endpoint.DETOKENIZE, {"tokens": [1]}, [], 0),
        (Endpoint.EMBEDDINGS, {"input": "Hi"}, [("user", "Hi")], 0),
        (Endpoint.EMBEDDINGS, {"input": ["a", "b"]}, [("user", "a"), ("user", "b")], 0),
        (Endpoint.EMBEDDINGS, {"messages": [USER]}, [("user", "Hi")], 0),
        (
            Endpoint.RERANK,
            {"query": "a", "documents": ["b", "c"], "instruction": "i"},
            [("system", "i"), ("query", "a"), ("document", "b"), ("document", "c")],
            0,
        ),
        (
            Endpoint.SCORE,
            {"text_1": ["a", "b"], "text_2": ["c", "d"]},
            [("query", "a"), ("query", "b"), ("document", "c"), ("document", "d")],
            0,
        ),
    ],
)
def test_turns_and_images(
    endpoint: Endpoint, document: object, turns: list[tuple[str, str]], images: int
) -> None:
    """Every dialect's messages become the same turns, in order; images are counted, not decoded."""
    prompt = parse(endpoint, document).prompt
    assert prompt.turns == tuple(Turn(role, text) for role, text in turns)
    assert prompt.images == images


@pytest.mark.parametrize(
    ("endpoint", "fields", "expected"),
    [
        (Endpoint.CHAT, {"tools": [{}, {}]}, {"tools": 2}),
        (Endpoint.CHAT, {"tools": None}, {"tools": 0}),
        (Endpoint.CHAT, {"response_format": {"type": "json_schema"}}, {"schema": True}),
        (Endpoint.CHAT, {"response_format": {"type": "json_object"}}, {"schema": True}),
        (Endpoint.CHAT, {"response_format": {"type": "text"}}, {"schema": False}),
        (Endpoint.COMPLETIONS, {"structured_outputs": {"regex": "a"}}, {"schema": True}),
        (Endpoint.RESPONSES, {"text": {"format": {"type": "json_schema"}}}, {"schema": True}),
        (Endpoint.RESPONSES, {"reasoning": {"effort": "high"}}, {"reasoning": True}),
        (Endpoint.MESSAGES, {"thinking": {"type": "enabled"}}, {"reasoning": True}),
        (Endpoint.CHAT, {"max_tokens": 5}, {"output_tokens_max": 5}),
        (Endpoint.CHAT, {"max_tokens": 5, "max_completion_tokens": 7}, {"output_tokens_max": 7}),
        (Endpoint.RESPONSES, {"max_output_tokens": 9}, {"output_tokens_max": 9}),
        (Endpoint.CHAT, {"max_tokens": True}, {"output_tokens_max": None}),
        (Endpoint.CHAT, {}, {"tools": 0, "schema": False, "reasoning": False}),
    ],
)
def test_what_routing_looks_at(
    endpoint: Endpoint, fields: dict[str, Any], expected: dict[str, Any]
) -> None:
    """Tools, schemas, thinking and the output limit are found under each dialect's names."""
    prompt = parse(endpoint, {**PROMPTS[endpoint], **fields}).prompt
    assert {name: getattr(prompt, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("endpoint", "document", "param"),
    [
        (Endpoint.CHAT, {}, "messages"),
        (Endpoint.CHAT, {"messages": []}, "messages"),
        (Endpoint.CHAT, {"messages": "Hi"}, "messages"),
        (Endpoint.CHAT, {"messages": ["Hi"]}, "messages[0]"),
        (Endpoint.CHAT, {"messages": [USER, {"content": "Hi"}]}, "messages[1].role"),
        (Endpoint.CHAT, {"messages": [{"role": "user", "content": 1}]}, "messages[0].content"),
        (Endpoint.CHAT, {"messages": [{"role": "user", "content": [1]}]}, "messages[0].content"),
        (Endpoint.CHAT, {"messages": [USER], "stream": "yes"}, "stream"),
        (Endpoint.CHAT, {"messages": [USER], "model": 1}, "model"),
        (Endpoint.CHAT, {"messages": [USER], "tools": {}}, "tools"),
        (
            Endpoint.CHAT,
            {"messages": [USER], "stream": True, "stream_options": []},
            "stream_options",
        ),
        (Endpoint.MESSAGES, {"messages": [USER], "system": 1}, "system"),
        (Endpoint.COMPLETIONS, {}, "prompt"),
        (Endpoint.COMPLETIONS, {"prompt": 1}, "prompt"),
        (Endpoint.RESPONSES, {}, "input"),
        (Endpoint.RESPONSES, {"input": [1]}, "input[0]"),
        (Endpoint.RESPONSES, {"input": "Hi", "instructions": 1}, "instructions"),
    ],
)
def test_a_wrong_field_is_named(endpoint: Endpoint, document: object, param: str) -> None:
    """The error points at the very field."""
    with pytest.raises(InvalidField) as caught:
        parse(endpoint, document)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "line 1"),
        (b'{"a": 1,\n oops}', "line 2"),
        (b"[]", "object"),
        (b'"secret"', "object"),
        (b'{"a": NaN}', "line 1"),
        (b'{"a": "\xff"}', "JSON"),
    ],
)
def test_what_is_no_json_object_is_refused(body: bytes, words: str) -> None:
    """The error says where the JSON breaks, and does not repeat the body."""
    with pytest.raises(MalformedBody) as caught:
        parse_json(body)
    assert words in caught.value.message
    assert "secret" not in caught.value.message


@pytest.mark.parametrize(
    ("document", "endpoint"),
    [
        ({"messages": []}, Endpoint.CHAT),
        ({"messages": [], "system": "S"}, Endpoint.MESSAGES),
        ({"messages": [], "anthropic_version": "2023-06-01"}, Endpoint.MESSAGES),
        ({"input": "Hi"}, Endpoint.RESPONSES),
        ({"prompt": "Hi"}, Endpoint.COMPLETIONS),
    ],
)
def test_detect_endpoint(document: dict[str, Any], endpoint: Endpoint) -> None:
    """A body tells which generation endpoint it was written for."""
    assert detect_endpoint(document) is endpoint


def test_detect_endpoint_needs_a_prompt() -> None:
    """A body without any prompt is refused by the names of those it could have."""
    with pytest.raises(MalformedBody, match="messages"):
        detect_endpoint({"model": "auto"})


@pytest.mark.parametrize(
    ("more", "draftable"),
    [
        ({}, True),
        ({"use_beam_search": False}, True),
        ({"use_beam_search": True}, False),
    ],
)
def test_what_cannot_be_drafted_is_marked(more: dict[str, object], draftable: bool) -> None:
    """The tokens of a beam tell nothing in time."""
    assert parse(Endpoint.CHAT, {**PROMPTS[Endpoint.CHAT], **more}).draftable is draftable


@pytest.mark.parametrize("endpoint", Endpoint)
def test_policies_are_those_that_exist(endpoint: Endpoint) -> None:
    """The header's value is taken exactly, and a wrong one is refused on every endpoint."""
    body = json.dumps(PROMPTS[endpoint]).encode()

    def policy(value: str | None) -> Policy | None:
        return parse_call(endpoint, body, request_id="r", tier=None, policy=value).policy

    assert (policy(None), policy("cascade")) == (None, Policy.CASCADE)
    with pytest.raises(InvalidField, match="x-route-policy"):
        policy("CASCADE")


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        (
            {"prompt": "x", "stream": True, "stream_options": {}, "seed": 1},
            {"prompt": "x", "seed": 1},
        ),
        ({"prompt": ["x"], "n": 1, "best_of": 3}, {"prompt": ["x"], "n": 1}),
        ({"prompt": "x", "n": 2}, None),
        ({"prompt": ["x", "y"]}, None),
        ({"prompt": "x", "use_beam_search": True}, None),
    ],
)
def test_the_body_of_a_label_call(body: dict[str, object], sent: dict[str, object] | None) -> None:
    """The same question for another model, in one piece; where several answers are asked for, two
    models' cannot be held against each other."""
    call = parse_call(Endpoint.COMPLETIONS, json.dumps(body).encode(), request_id="r", tier=None)
    found = call.payload.for_label("m")
    assert (found and json.loads(found)) == (sent and {**sent, "model": "m", "stream": False})


@pytest.mark.parametrize(
    ("endpoint", "document", "token_ids", "bytes_min"),
    [
        (Endpoint.COMPLETIONS, {"prompt": [7] * 20_000}, 20_000, 0),
        (Endpoint.COMPLETIONS, {"prompt": [[7] * 500, [7] * 40]}, 540, 0),
        (
            Endpoint.CHAT,
            {
                "messages": [
                    USER,
                    {
                        "role": "assistant",
                        "tool_calls": [{"function": {"name": "f", "arguments": "a" * 900}}],
                    },
                ]
            },
            0,
            900,
        ),
        (
            Endpoint.MESSAGES,
            {
                "messages": [
                    {
                        "role": "assistant",
                        "content": [{"type": "tool_use", "name": "f", "input": {"a": "b" * 900}}],
                    }
                ]
            },
            0,
            900,
        ),
        (
            Endpoint.RESPONSES,
            {"input": [{"type": "function_call", "name": "f", "arguments": "a" * 900}]},
            0,
            900,
        ),
        (Endpoint.CHAT, {"tools": [{"type": "function", "description": "a" * 900}]}, 0, 900),
        (Endpoint.CHAT, {"messages": [{"role": "developer", "tools": ["a" * 900]}, USER]}, 0, 900),
        (Endpoint.MESSAGES, {"tools": [{"name": "f", "input_schema": {"a": "b" * 900}}]}, 0, 900),
        (Endpoint.CHAT, {}, 0, 0),
    ],
)
def test_what_fills_the_context_beside_the_turns(
    endpoint: Endpoint, document: dict[str, Any], token_ids: int, bytes_min: int
) -> None:
    """Token ids are counted one by one; calls, arguments and tools by what a template writes."""
    prompt = parse(endpoint, {**PROMPTS[endpoint], **document}).prompt
    assert prompt.token_ids == token_ids
    assert bytes_min <= prompt.rendered_bytes <= bytes_min + 100


def test_a_tool_result_is_no_ask() -> None:
    """Anthropic sends results in a user's message: each is a turn of the tool's, and what the user
    adds stays the user's."""
    results = [
        {"type": "tool_result", "content": "42"},
        {"type": "tool_result", "content": [{"type": "text", "text": "43"}]},
        {"type": "text", "text": "And now?"},
    ]
    messages = [USER, {"role": "user", "content": results[:2]}]
    prompt = parse(Endpoint.MESSAGES, {"messages": messages}).prompt
    assert list_asks(prompt) == ["Hi"]
    turns = prompt.turns
    assert turns == (Turn("user", "Hi"), Turn("tool", "42"), Turn("tool", "43"))
    turns = parse(
        Endpoint.MESSAGES, {"messages": [{"role": "user", "content": results}]}
    ).prompt.turns
    assert turns[-1] == Turn("user", "And now?")


def test_the_label_of_a_response_is_not_stored() -> None:
    """By the engine, which would keep it for nobody."""
    body = {"input": "x", "store": True}
    call = parse_call(Endpoint.RESPONSES, json.dumps(body).encode(), request_id="r", tier=None)
    found = call.payload.for_label("m")
    assert found is not None
    assert json.loads(found) == {"input": "x", "store": False, "model": "m", "stream": False}


@pytest.mark.parametrize("content", [[], [{"type": "refusal", "refusal": "no"}], [{"text": 5}]])
def test_an_earlier_answer_without_text_is_refused(content: list[object]) -> None:
    """vLLM reads its first part's text unseen, and would fail with a 500."""
    item = {"type": "message", "id": "m", "role": "assistant", "status": "completed"}
    body = json.dumps({"input": [{**item, "content": content}]}).encode()
    with pytest.raises(InvalidField) as caught:
        parse_call(Endpoint.RESPONSES, body, request_id="id", tier=None)
    assert caught.value.param == "input[0].content"


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ({}, 100),
        (None, 100),
        (-1, 100),
        (7, 7),
        (101, 100),
        (-2, -2),
        ("many", "many"),
        (True, True),
    ],
)
def test_a_tier_bounds_the_thinking(asked: object, sent: object) -> None:
    """A budget is set or lowered, for chats to that tier alone; what is no budget, vLLM refuses."""
    bodies = BodiesConfig(thinking_tokens_max={"strong": 100})
    fields = {} if asked == {} else {"thinking_token_budget": asked}

    def budget(endpoint: Endpoint, tier: str) -> object:
        call = parse(endpoint, {**PROMPTS[endpoint], **fields, "stream": True}, bodies)
        return json.loads(call.payload.for_model("m", tier)).get("thinking_token_budget")

    assert budget(Endpoint.CHAT, "strong") == sent
    untouched = fields.get("thinking_token_budget")
    assert budget(Endpoint.CHAT, "fast") == untouched
    assert budget(Endpoint.COMPLETIONS, "strong") == untouched
    assert budget(Endpoint.MESSAGES, "strong") is None
