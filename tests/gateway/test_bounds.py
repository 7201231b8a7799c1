"""Bodies that would stall an engine, or break it, are refused by the name of the field."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.config.bodies import BodiesConfig
from serve_app.core.call import Call, Endpoint
from serve_app.core.errors import BadRequest, GatewayError, InvalidField, RefusedField, TooMany
from serve_app.gateway.fields import FIELDS
from serve_app.gateway.wire import DEFAULT_BODIES, parse_call
from tests.pictures import data_url, picture

USER = {"role": "user", "content": "Hi"}
DATA_URL = data_url(picture())
PROMPTS: dict[Endpoint, dict[str, Any]] = {
    Endpoint.CHAT: {"messages": [USER]},
    Endpoint.COMPLETIONS: {"prompt": "Hi"},
    Endpoint.RESPONSES: {"input": "Hi"},
    Endpoint.INPUT_TOKENS: {"input": "Hi"},
    Endpoint.MESSAGES: {"messages": [USER]},
    Endpoint.COUNT_TOKENS: {"messages": [USER]},
    Endpoint.EMBEDDINGS: {"input": "Hi"},
    Endpoint.RERANK: {"query": "Hi", "documents": ["a", "b"]},
    Endpoint.SCORE: {"text_1": "Hi", "text_2": ["a", "b"]},
    Endpoint.TOKENIZE: {"prompt": "Hi"},
    Endpoint.DETOKENIZE: {"tokens": [1]},
}
STRING = {"type": "string"}


def parse(endpoint: Endpoint, fields: object, bodies: BodiesConfig = DEFAULT_BODIES) -> Call:
    body = json.dumps(fields).encode()
    return parse_call(endpoint, body, request_id="r", tier=None, bodies=bodies)


def refusal(
    endpoint: Endpoint, fields: dict[str, Any], bodies: BodiesConfig = DEFAULT_BODIES
) -> GatewayError:
    with pytest.raises(BadRequest) as caught:
        parse(endpoint, {**PROMPTS[endpoint], **fields}, bodies)
    return caught.value


def sent(
    endpoint: Endpoint, fields: dict[str, Any], bodies: BodiesConfig = DEFAULT_BODIES
) -> dict[str, Any]:
    call = parse(endpoint, {**PROMPTS[endpoint], **fields}, bodies)
    document: dict[str, Any] = json.loads(call.payload.for_model("m", "fast"))
    return document


# ---- wrong types -------------------------------------------------------------------------------

keys = st.sampled_from(
    [
        "type", "role", "content", "text", "image_url", "url", "source", "uuid", "format", "schema",
        "json_schema", "json", "regex", "choice", "grammar", "properties", "$ref", "$defs", "enum",
        "pattern", "anyOf", "maxLength", "items", "function", "parameters", "strict", "tool_calls",
        "arguments", "output", "input", "tools", "name", "max_pattern_size", "enable_thinking",
    ]
)  # fmt: skip
words = st.sampled_from(
    [
        "", "auto", "user", "text", "function", "image_url", "tool_result", "tool_use",
        "json_schema", "structural_tag", "required", "#", "root ::= root", "(", "a{",
        "mcp", "reasoning",
    ]
)  # fmt: skip
numbers = st.integers(-3, 3) | st.sampled_from([0.5, 2**53, -1])
values = st.recursive(
    st.none() | st.booleans() | numbers | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)


@given(st.sampled_from(Endpoint), st.data())
def test_any_value_in_any_field_is_read_or_refused(endpoint: Endpoint, data: Any) -> None:
    """Valid JSON of any type in any field gives a call or a 400, never another exception."""
    names = st.sampled_from([*FIELDS[endpoint], "model", "colour"])
    fields = data.draw(st.dictionaries(names, values, max_size=4))
    with contextlib.suppress(BadRequest):
        call = parse(endpoint, {**PROMPTS[endpoint], **fields})
        assert json.loads(call.payload.for_model("m", "fast"))["model"] == "m"


@pytest.mark.parametrize(
    ("endpoint", "fields", "param"),
    [
        (Endpoint.CHAT, {"messages": [{"role": "user", "content": [{"type": []}]}]}, "type"),
        (Endpoint.CHAT, {"response_format": {"type": {}}}, "response_format.type"),
        (Endpoint.CHAT, {"response_format": "json"}, "response_format"),
        (Endpoint.CHAT, {"structured_outputs": "auto"}, "structured_outputs"),
        (Endpoint.CHAT, {"structured_outputs": {}}, "structured_outputs"),
        (Endpoint.CHAT, {"structured_outputs": {"_backend": "x"}}, "structured_outputs._backend"),
        (Endpoint.CHAT, {"structured_outputs": {"choice": "a"}}, "structured_outputs.choice"),
        (Endpoint.CHAT, {"structured_outputs": {"json": "{"}}, "structured_outputs.json"),
        (Endpoint.RESPONSES, {"text": []}, "text"),
        (Endpoint.MESSAGES, {"output_config": "x"}, "output_config"),
        (Endpoint.CHAT, {"tools": ["x"]}, "tools[0]"),
        (Endpoint.CHAT, {"n": "5000"}, "n"),
        (Endpoint.CHAT, {"n": True}, "n"),
        (Endpoint.CHAT, {"top_logprobs": -1}, "top_logprobs"),
        (Endpoint.CHAT, {"chat_template_kwargs": []}, "chat_template_kwargs"),
        (Endpoint.COMPLETIONS, {"prompt": [[1, "a"]]}, "prompt"),
        (Endpoint.EMBEDDINGS, {"input": {}}, "input"),
        (Endpoint.EMBEDDINGS, {"encoding_format": "bytes"}, "encoding_format"),
        (Endpoint.RERANK, {"query": ["Hi"]}, "query"),
        (Endpoint.RERANK, {"documents": []}, "documents"),
        (Endpoint.RERANK, {"documents": ["a", {"content": []}]}, "documents[1]"),
        (Endpoint.SCORE, {"text_1": ["a", "b", "c"]}, "text_1"),
        (Endpoint.SCORE, {"queries": "a", "documents": "b"}, "no value beside"),
        (Endpoint.SCORE, {"text_2": None}, "text_2"),
        (Endpoint.DETOKENIZE, {"tokens": "x"}, "tokens"),
    ],
)
def test_a_wrong_type_is_named(endpoint: Endpoint, fields: dict[str, Any], param: str) -> None:
    """Where the type decides what happens, a wrong one is the client's error."""
    error = refusal(endpoint, fields)
    assert isinstance(error, InvalidField)
    assert param in f"{error.param} {error.expected}"


def called(endpoint: Endpoint, arguments: str) -> dict[str, Any]:
    """A conversation in which the model has called a function."""
    function = {"name": "f", "arguments": arguments}
    if endpoint is Endpoint.RESPONSES:
        return {"input": [{"type": "function_call", "call_id": "c", **function}]}
    call = {"id": "c", "type": "function", "function": function}
    return {"messages": [USER, {"role": "assistant", "tool_calls": [call]}]}


@pytest.mark.parametrize("endpoint", [Endpoint.CHAT, Endpoint.RESPONSES, Endpoint.TOKENIZE])
@pytest.mark.parametrize(
    "arguments", ["[" * 5000, '{"a":' * 5000 + "1" + "}" * 5000, '{"a":"]]]"' + ',"b":[' * 300]
)
def test_arguments_that_an_engine_could_not_read(endpoint: Endpoint, arguments: str) -> None:
    """vLLM reads them as JSON and answers 500 where they are nested too deeply for it."""
    error = refusal(endpoint, called(endpoint, arguments))
    assert isinstance(error, InvalidField)
    assert error.param is not None
    assert error.param.endswith(".arguments")


@pytest.mark.parametrize("endpoint", [Endpoint.CHAT, Endpoint.RESPONSES])
@pytest.mark.parametrize(
    "arguments", ["", "no JSON {", '{"a": "' + "[" * 5000 + '"}', '{"a":[' + "[]," * 5000 + "1]}"]
)
def test_arguments_of_everyday_use_pass(endpoint: Endpoint, arguments: str) -> None:
    """Models write code into them, long lists, and sometimes no JSON at all."""
    fields = called(endpoint, arguments)
    document = sent(endpoint, fields)
    assert all(document[name] == value for name, value in fields.items())


# ---- templates, tools, media -------------------------------------------------------------------

TEMPLATE_ENDPOINTS = [e for e, table in FIELDS.items() if "chat_template_kwargs" in table]


@pytest.mark.parametrize("endpoint", TEMPLATE_ENDPOINTS)
@pytest.mark.parametrize("name", ["chat_template", "tokenize", "max_length", "messages", "x"])
def test_no_template_comes_in_through_its_variables(endpoint: Endpoint, name: str) -> None:
    """vLLM would render it, and its loops have no bound."""
    error = refusal(endpoint, {"chat_template_kwargs": {name: "{% for i in range(9) %}"}})
    assert isinstance(error, RefusedField)
    assert error.param == f"chat_template_kwargs.{name}"


@pytest.mark.parametrize("endpoint", TEMPLATE_ENDPOINTS)
def test_known_variables_are_forwarded(endpoint: Endpoint) -> None:
    """Switching a model's thinking off is everyday use."""
    kwargs = {"enable_thinking": False}
    assert sent(endpoint, {"chat_template_kwargs": kwargs})["chat_template_kwargs"] == kwargs
    for value in ({"chat_template": "x"}, ["x"], "x" * 257):
        error = refusal(endpoint, {"chat_template_kwargs": {"enable_thinking": value}})
        assert error.param == "chat_template_kwargs.enable_thinking"


def test_the_operator_names_other_variables() -> None:
    """But none that steers the rendering itself."""
    bodies = BodiesConfig(template_variables=("date",))
    fields = {"chat_template_kwargs": {"date": "today"}}
    assert sent(Endpoint.CHAT, fields, bodies)["chat_template_kwargs"] == {"date": "today"}
    with pytest.raises(ValueError, match="chat_template"):
        BodiesConfig(template_variables=("chat_template",))


def test_no_way_around_a_refused_field() -> None:
    """Extra arguments of the sampler end where the refused fields would."""
    bodies = BodiesConfig(allowed_fields=("vllm_xargs",))
    fields = {"vllm_xargs": {"kv_transfer_params": "x"}}
    assert refusal(Endpoint.CHAT, fields, bodies).param == "vllm_xargs.kv_transfer_params"


def test_tools_of_a_server() -> None:
    """MCP is refused; hosted tools, which clients send unasked, are taken out; the client's own
    stay."""
    own = [{"type": "function", "name": "f"}, {"type": "custom", "name": "g"}]
    hosted = [{"type": "web_search"}, {"type": "code_interpreter", "container": {}}]
    assert sent(Endpoint.RESPONSES, {"tools": [*own, *hosted]})["tools"] == own
    mcp = {"type": "mcp", "server_label": "x", "server_url": "http://10.0.0.1"}
    assert refusal(Endpoint.RESPONSES, {"tools": [*own, mcp]}).param == "tools[2].type"
    assert refusal(Endpoint.MESSAGES, {"tools": [{"type": "bash_20250124"}]}).param
    open_to_all = BodiesConfig(allowed_fields=("server_tools",))
    assert sent(Endpoint.RESPONSES, {"tools": [mcp]}, open_to_all)["tools"] == [mcp]


def media(url: str) -> Iterator[tuple[Endpoint, dict[str, Any]]]:
    """Every place where a body can name an image."""
    for value in (url, {"url": url}):
        for part in ({"type": "image_url", "image_url": value}, {"image_url": value}):
            yield Endpoint.CHAT, {"messages": [{"role": "user", "content": [part]}]}
            yield Endpoint.TOKENIZE, {"messages": [{"role": "user", "content": [part]}]}
            yield Endpoint.EMBEDDINGS, {"messages": [{"role": "user", "content": [part]}]}
            yield Endpoint.EMBEDDINGS, {"input": [[{"role": "user", "content": [part]}]]}
    image = {"type": "input_image", "image_url": url}
    yield Endpoint.RESPONSES, {"input": [{"role": "user", "content": [image]}]}
    result = {"type": "function_call_output", "output": [image]}
    yield Endpoint.RESPONSES, {"input": [result]}
    yield Endpoint.RESPONSES, {"input": [{**result, "content": "x"}]}
    hidden = {"type": "tool_result", "image_url": {"url": url}}
    yield Endpoint.CHAT, {"messages": [{"role": "user", "content": [hidden]}]}
    if not url.startswith("data:image"):
        source = {"type": "image", "source": {"type": "url", "url": url}}
        result = {"type": "tool_result", "tool_use_id": "t", "content": [source]}
        for block in (source, result):
            yield Endpoint.MESSAGES, {"messages": [{"role": "user", "content": [block]}]}


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data", "http://example.org/a.png", "file:///etc/passwd",
        "FILE:///etc/passwd", "ftp://x/y", "//x/y", "", "data:image/png,AA", "data:",
        "https://good.org@evil.org/", "https://evil.org\\@good.org/", " https://good.org/",
        "https://good.org:22/", "https://good.org\n.evil.org/", "javascript:1",
        "https://[::1]/", "https://good.org/" + "a" * 8192,
    ],
)  # fmt: skip
def test_only_images_in_the_body_and_https_urls_are_read(url: str) -> None:
    """Everything else is refused before a tier is chosen, and the field is named."""
    for endpoint, document in media(url):
        with pytest.raises(InvalidField, match="https") as caught:
            parse(endpoint, document)
        assert caught.value.param is not None
        assert caught.value.param.endswith(("image_url", "source.url"))


@pytest.mark.parametrize(
    ("url", "host"),
    [
        (DATA_URL, None),
        ("https://good.org/a.png", "good.org"),
        ("HTTPS://GOOD.org:443/?a=b", "good.org"),
        ("https://good.org.evil.org/", "good.org.evil.org"),
    ],
)
def test_an_image_is_found_wherever_a_body_can_hold_it(url: str, host: str | None) -> None:
    """With its size if it is in the body, otherwise with the host that the tier must allow."""
    for endpoint, document in media(url):
        [part] = parse(endpoint, document).prompt.image_parts
        size = (0, 0) if host else (40, 30)
        assert (part.host, part.width, part.height) == (host, *size)


@pytest.mark.parametrize(
    "part",
    [
        {"type": "video_url", "video_url": {"url": DATA_URL}},
        {"video_url": DATA_URL},
        {"type": "audio_url", "audio_url": {"url": "data:audio/wav;base64,AAAA"}},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
        {"type": "video_embeds", "video_embeds": "AA"},
        {"type": "audio_embeds", "audio_embeds": "AA"},
        {"type": "file", "file": {"file_data": DATA_URL}},
        {"type": "input_file", "file_url": "https://good.org/a.pdf"},
    ],
)
def test_other_media_are_refused(part: dict[str, Any]) -> None:
    """Videos, sounds and files are refused by their field, whatever holds them."""
    bodies = BodiesConfig(allowed_fields=("prompt_embeds",))
    error = refusal(Endpoint.CHAT, {"messages": [{"role": "user", "content": [part]}]}, bodies)
    assert isinstance(error, RefusedField)
    assert error.param in {f"messages[0].content.{key}" for key in (*part, part.get("type"))}
    assert "text and images" in error.message


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_embeds", "image_embeds": "AA"},
        {"image_embeds": "AA"},
        {"type": "prompt_embeds", "data": "AA"},
        {"type": "image_url", "image_url": {"url": DATA_URL}, "uuid": "1"},
        {"type": "tool_result", "image_url": {"url": DATA_URL}, "uuid": "1"},
        {"type": "text", "text": "a", "uuid": "1"},
        {"type": "image_pil", "image_pil": "x"},
    ],
)
def test_parts_that_reach_into_the_engine_are_refused(part: dict[str, Any]) -> None:
    """Pickled tensors, and the cached media of other callers."""
    messages = [{"role": "user", "content": [part]}]
    assert isinstance(refusal(Endpoint.CHAT, {"messages": messages}), RefusedField)


# ---- counts ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("endpoint", "fields"),
    [
        (Endpoint.CHAT, {"messages": [USER] * 2049}),
        (Endpoint.CHAT, {"messages": [{"role": "user", "content": ["a"] * 4097}]}),
        (
            Endpoint.CHAT,
            {"messages": [{"role": "user", "content": [{"image_url": DATA_URL}] * 33}]},
        ),
        (Endpoint.CHAT, {"messages": [{"role": "assistant", "tool_calls": [{}] * 4097}]}),
        (Endpoint.CHAT, {"tools": [{}] * 257}),
        (Endpoint.CHAT, {"stop": ["a"] * 17}),
        (Endpoint.CHAT, {"stop": "a" * 1025}),
        (Endpoint.MESSAGES, {"stop_sequences": ["a"] * 17}),
        (Endpoint.CHAT, {"bad_words": ["a"] * 257}),
        (Endpoint.CHAT, {"logit_bias": {str(n): 1 for n in range(1025)}}),
        (Endpoint.CHAT, {"allowed_token_ids": [1] * 16385}),
        (Endpoint.CHAT, {"logprob_token_ids": [1] * 21}),
        (Endpoint.CHAT, {"documents": [{}] * 257}),
        (Endpoint.COMPLETIONS, {"prompt": ["a"] * 129}),
        (Endpoint.COMPLETIONS, {"prompt": [[1]] * 129}),
        (Endpoint.COMPLETIONS, {"prompt": ["a"] * 9, "n": 16}),
        (Endpoint.COMPLETIONS, {"prompt": ["a"] * 128, "n": 2, "use_beam_search": True}),
        (Endpoint.EMBEDDINGS, {"input": ["a"] * 2049}),
        (Endpoint.EMBEDDINGS, {"input": "word " * 250_000}),
        (Endpoint.EMBEDDINGS, {"input": [[1] * 1000] * 301}),
        (Endpoint.RERANK, {"documents": ["a"] * 2049}),
        (Endpoint.RERANK, {"query": "word " * 2000, "documents": ["a"] * 200}),
        (Endpoint.RERANK, {"instruction": "word " * 2000, "documents": ["a"] * 200}),
        (Endpoint.SCORE, {"text_2": ["a"] * 2049}),
        (Endpoint.RESPONSES, {"input": [USER] * 2049}),
        (Endpoint.TOKENIZE, {"prompt": "a" * 262_145}),
        (Endpoint.TOKENIZE, {"messages": [{"role": "user", "content": "a" * 262_145}]}),
        (Endpoint.TOKENIZE, {"messages": [USER], "prompt": "a" * 262_145}),
        (Endpoint.DETOKENIZE, {"tokens": [1] * 262_145}),
    ],
)
def test_too_many_of_anything(endpoint: Endpoint, fields: dict[str, Any]) -> None:
    """The engine works each of them through on the loop that serves every caller."""
    assert isinstance(refusal(endpoint, fields), TooMany)


@pytest.mark.parametrize(
    ("endpoint", "fields"),
    [
        (Endpoint.CHAT, {"n": 17}),
        (Endpoint.COMPLETIONS, {"logprobs": 21}),
        (Endpoint.COMPLETIONS, {"prompt_logprobs": 21}),
        (Endpoint.CHAT, {"repetition_detection": {"max_pattern_size": 65, "min_count": 2}}),
    ],
)
def test_too_large_a_number(endpoint: Endpoint, fields: dict[str, Any]) -> None:
    """Numbers that multiply the engine's work have a bound."""
    assert isinstance(refusal(endpoint, fields), InvalidField)


# ---- grammars ----------------------------------------------------------------------------------


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = STRING
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


def lengths(*bounds: int) -> dict[str, Any]:
    return {"properties": {f"p{n}": {**STRING, "maxLength": n} for n in bounds}}


DOUBLING = {
    "$defs": {
        **{f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(60)},
        "d60": STRING,
    },
    "$ref": "#/$defs/d0",
}

BAD_SCHEMAS: list[object] = [
    {"enum": ["a" * 1000] * 9},
    {"properties": {f"property{n}": STRING for n in range(600)}},
    {"anyOf": [{"const": n} for n in range(600)]},
    nested(33),
    lengths(100, 200, 300),
    {**STRING, "maxLength": -1},
    {**STRING, "maxLength": "1"},
    {**STRING, "pattern": "(([a-z]{1,20}){1,20}){1,20}"},
    {**STRING, "pattern": "a" * 1025},
    {**STRING, "pattern": "(" * 33 + "a" + ")" * 33},
    {**STRING, "pattern": {"type": []}},
    {"patternProperties": {"[a-z]{1,99}[a-z]{1,99}[a-z]{1,99}": STRING}},
    {"type": "array", "maxItems": 10**9},
    {"type": []},
    {"properties": {f"p{n}": STRING for n in range(200)}, "maxProperties": 100},
    {**STRING, "pattern": "[a-z]?" * 17},
    {**STRING, "pattern": "(a|)" * 17},
    {"description": "a" * 70_000},
    {"$ref": "#"},
    {"$ref": "http://10.0.0.1/schema"},
    {"anyOf": [{"$ref": "#"}]},
    {"properties": {"a": {"$ref": "#/properties/a"}}},
    "string",
    [],
]


def places(schema: object) -> Iterator[tuple[Endpoint, dict[str, Any]]]:
    """Every field that a schema can come in by."""
    named = {"name": "s", "schema": schema}
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    strict = {"type": "function", "function": {"name": "f", "parameters": schema, "strict": True}}
    flat = {"type": "function", "name": "f", "parameters": schema}
    for endpoint in (Endpoint.CHAT, Endpoint.COMPLETIONS):
        yield endpoint, {"response_format": {"type": "json_schema", "json_schema": named}}
        yield endpoint, {"structured_outputs": {"json": schema}}
        yield endpoint, {"structured_outputs": {"json": json.dumps(schema)}}
    yield Endpoint.CHAT, {"tools": [tool], "tool_choice": "required"}
    yield Endpoint.CHAT, {"tools": [tool], "tool_choice": {"function": {"name": "f"}}}
    yield Endpoint.CHAT, {"tools": [strict]}
    yield Endpoint.RESPONSES, {"text": {"format": {"type": "json_schema", **named}}}
    both = {"type": "json_schema", **named, "json_schema": {"name": "s"}}
    yield Endpoint.RESPONSES, {"text": {"format": both}}
    yield Endpoint.RESPONSES, {"tools": [flat], "tool_choice": "required"}
    yield Endpoint.MESSAGES, {"output_config": {"format": {"type": "json_schema", **named}}}
    anthropic = {"name": "f", "input_schema": schema}
    for kind in ("any", "tool"):
        yield Endpoint.MESSAGES, {"tools": [anthropic], "tool_choice": {"type": kind}}


@pytest.mark.parametrize("schema", BAD_SCHEMAS)
def test_a_schema_that_would_stall_the_compiler(schema: object) -> None:
    """Wherever it comes in."""
    for endpoint, fields in places(schema):
        refusal(endpoint, fields)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"name": STRING, "pattern": STRING, "enum": STRING}},
        {"type": "object", "properties": {"maxLength": {"type": "integer"}, "$ref": STRING}},
        {"$defs": {"n": {"properties": {"next": {"$ref": "#/$defs/n"}}}}, "$ref": "#/$defs/n"},
        {"type": ["string", "null"], "enum": ["red", "green", None]},
        {**STRING, "pattern": r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z$"},
        lengths(50, 70),
        {"properties": {f"p{n}": {**STRING, "maxLength": 200} for n in range(30)}},
        {"properties": {f"p{n}": STRING for n in range(200)}, "additionalProperties": False},
        nested(20),
        DOUBLING,
        True,
    ],
)
def test_schemas_of_everyday_use_pass(schema: object) -> None:
    """As they are, wherever they come in."""
    for endpoint, fields in places(schema):
        document = sent(endpoint, fields)
        assert {name: document[name] for name in fields} == fields


AB = {"type": "const_string", "value": "ab"}
NOTHING = {"type": "const_string", "value": ""}


def tag(content: dict[str, Any]) -> dict[str, Any]:
    """A structural tag of this format, as text."""
    return {"structural_tag": json.dumps({"type": "structural_tag", "format": content})}


def repeated(count: int, content: dict[str, Any]) -> dict[str, Any]:
    """A format up to so many times."""
    return {"type": "repeat", "min": 0, "max": count, "content": content}


def test_tools_that_may_be_called_are_no_grammar() -> None:
    """Agents bring a hundred tools; vLLM compiles them only where one must be called."""
    parameters = {"properties": {f"p{n}": STRING for n in range(40)}}
    tools = [
        {"type": "function", "function": {"name": f"f{n}", "parameters": parameters}}
        for n in range(100)
    ]
    assert len(sent(Endpoint.CHAT, {"tools": tools})["tools"]) == 100
    refusal(Endpoint.CHAT, {"tools": tools, "tool_choice": "required"})


@pytest.mark.parametrize(
    "outputs",
    [
        {"choice": [f"{n:04d}" * 250 for n in range(400)]},
        {"choice": []},
        {"choice": [1]},
        {"regex": "[a-z]{1,99}" * 3},
        {"regex": "a\x00"},
        {"regex": 1},
        {"grammar": "root ::= root"},
        {"grammar": 'root ::= a\na ::= root "x"'},
        {"grammar": 'root ::= "a" b\nb ::= b'},
        {"grammar": "root\n::= root"},
        {"grammar": "root # a comment\n ::= root"},
        {"grammar": "root ::= -a\n-a ::= root"},
        {"grammar": "start: start"},
        {"grammar": "?a: b 'x'\nb: a\n | a 'y' // a comment"},
        {"grammar": 'a: "x"\nstart: b\nb: start'},
        {"grammar": "\n".join(f"r{n}: 'a'" for n in range(129))},
        {"grammar": "\n".join(f'-r{n} ::= "a"' for n in range(129))},
        {"grammar": "root ::= " + "[a-z]{1,100} " * 3},
        {"grammar": 'root ::= "' + "a" * 5000 + '"'},
        {"grammar": "\n".join(f'r{n} ::= "a"' for n in range(129))},
        {"grammar": "root ::= " + "(" * 50 + '"a"' + ")" * 50},
        {"grammar": "root ::= " + "[a-z]? " * 17},
        {"grammar": "root ::= " + "e " * 17 + '\ne ::= [a-z] | ""'},
        {"grammar": " "},
        {"json_object": False},
        {"structural_tag": json.dumps({"format": nested(40)})},
        tag(repeated(128, repeated(128, {"type": "regex", "pattern": "[a-z]?"}))),
        tag(repeated(100_000, {"type": "regex", "pattern": "[a-z]?"})),
        tag(repeated(16, repeated(16, {"type": "const_string", "value": "ab"}))),
        tag({"type": "sequence", "elements": [{"type": "optional", "content": AB}] * 9}),
        tag({"type": "sequence", "elements": [{"type": "or", "elements": [AB, NOTHING]}] * 9}),
        {"json": {}, "regex": "a"},
    ],
)
def test_a_constraint_that_would_stall_the_compiler(outputs: dict[str, Any]) -> None:
    """Or that the engine would answer with a 500."""
    for endpoint in (Endpoint.CHAT, Endpoint.COMPLETIONS, Endpoint.RESPONSES):
        assert refusal(endpoint, {"structured_outputs": outputs}).status == 400


@pytest.mark.parametrize(
    "outputs",
    [
        {"choice": [f"class {n}" for n in range(100)]},
        {"regex": r"[a-z0-9._-]+@[a-z0-9.-]+\.[a-z]{2,8}"},
        {"regex": r"(?:\+?\d{1,3}[ -]?)?(?:.*?)\(?\d{3}\)?[ .-]?\d{3}[ .-]?\d{4}"},
        {"grammar": 'root ::= "a" root | "b"'},
        {"grammar": 'root ::= item*\nitem ::= "- " [^\\n]+ "\\n" # a list'},
        {"grammar": 'start: "a" | "b"'},
        {"grammar": "?start: item+ // a list\nitem: \"a: b\" start\n  | 'c'"},
        {"json_object": True},
        {"json": {}, "disable_any_whitespace": True},
        {
            "structural_tag": json.dumps(
                {
                    "triggers": ["<f"],
                    "structures": [{"begin": "<f>", "schema": STRING, "end": "</f>"}],
                }
            )
        },
        tag(repeated(100, {"type": "sequence", "elements": [AB, AB]})),
        tag({"type": "star", "content": {"type": "or", "elements": [AB, {"type": "any_text"}]}}),
    ],
)
def test_constraints_of_everyday_use_pass(outputs: dict[str, Any]) -> None:
    """Unchanged."""
    assert sent(Endpoint.CHAT, {"structured_outputs": outputs})["structured_outputs"] == outputs
