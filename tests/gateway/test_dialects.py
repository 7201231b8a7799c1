"""The official clients, unmodified, when an engine refuses a call or fails in a stream."""

from __future__ import annotations

import json

import anthropic
import httpx2
import openai
import pytest

from serve_app.core.call import Endpoint, Outcome
from tests.fakes import FakeAnswer
from tests.gateway.conftest import Gateway
from tests.gateway.test_gateway import stream_of

HELLO = [{"role": "user", "content": "Hello"}]
CHAT_CHUNK = (
    b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m",'
    b'"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
)
CHAT_FAILED = (
    b'data: {"error": {"message": "died in /usr/lib", "type": "InternalServerError", '
    b'"param": null, "code": 500}}\n\n'
)
CHAT_REFUSED = (
    b'data: {"error": {"message": "logprobs are too many (parameter=logprobs, value=100)", '
    b'"type": "BadRequestError", "param": "logprobs", "code": 400}}\n\n'
)
DONE = b"data: [DONE]\n\n"
MESSAGE_START = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"m","type":"message",'
    b'"role":"assistant","content":[],"model":"m","stop_reason":null,"stop_sequence":null,'
    b'"usage":{"input_tokens":3,"output_tokens":0}}}\n\n'
)
MESSAGE_FAILED = (
    b'event: error\ndata: {"type":"error","error":{"type":"internal_error",'
    b'"message":"died in /usr/lib"}}\n\n'
)
RESPONSE_DELTA = (
    b'event: response.output_text.delta\ndata: {"content_index":0,"delta":"I","item_id":"i",'
    b'"logprobs":[],"output_index":0,"sequence_number":4,"type":"response.output_text.delta"}\n\n'
)


def refusal(status: int, message: str, param: str | None = None) -> FakeAnswer:
    error = {"message": message, "type": "BadRequestError", "param": param, "code": status}
    return FakeAnswer([json.dumps({"error": error}).encode()], status=status)


@pytest.fixture
def client(gateway: Gateway) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        base_url="http://test/v1", api_key="none", max_retries=0, http_client=gateway.client
    )


@pytest.fixture
def claude(gateway: Gateway) -> anthropic.AsyncAnthropic:
    transport = httpx2.ASGITransport(app=gateway.client._transport.app)
    return anthropic.AsyncAnthropic(
        base_url="http://test",
        api_key="none",
        max_retries=0,
        http_client=httpx2.AsyncClient(transport=transport, base_url="http://test"),
    )


TOO_LONG = (
    "This model's maximum context length is 4096 tokens. However, you requested 4 output tokens "
    "and your prompt contains at least 4093 input tokens, for a total of at least 4097 tokens. "
    "Please reduce the length of the input prompt. (parameter=input_tokens, value=4093)"
)


async def test_openai_knows_a_prompt_that_is_too_long(
    gateway: Gateway, client: openai.AsyncOpenAI
) -> None:
    """Agents that shorten their conversation look at `code`."""
    gateway.fast.answer = refusal(400, TOO_LONG, "input_tokens")
    with pytest.raises(openai.BadRequestError) as raised:
        await client.chat.completions.create(model="fast", messages=HELLO)
    assert raised.value.code == "context_length_exceeded"
    assert raised.value.type == "invalid_request_error"
    assert raised.value.param == "messages"
    record = gateway.recorder.records[0]
    assert (record.outcome, record.code) == (Outcome.CLIENT_ERROR, "context_length_exceeded")
    assert record.status == 400


async def test_anthropic_knows_a_prompt_that_is_too_long(
    gateway: Gateway, claude: anthropic.AsyncAnthropic
) -> None:
    """Agents that shorten their conversation look for this sentence."""
    gateway.fast.answer = refusal(400, TOO_LONG)
    with pytest.raises(anthropic.BadRequestError) as raised:
        await claude.messages.create(model="fast", messages=HELLO, max_tokens=4)
    body = raised.value.body
    assert isinstance(body, dict)
    assert body["type"] == "error"
    assert body["error"]["type"] == "invalid_request_error"
    assert body["error"]["message"] == "prompt is too long: 4093 tokens > 4092 maximum"
    assert body["request_id"] == gateway.recorder.records[0].request_id


async def test_a_refusal_says_who_refused(gateway: Gateway) -> None:
    """The decision's headers stay, and what is counted tells the engine's refusals from ours."""
    gateway.fast.answer = refusal(400, "top_p must be in (0, 1]", "top_p")
    response = await gateway.chat(top_p=7, model="fast")
    assert response.json() == {
        "error": {
            "message": "top_p must be in (0, 1]",
            "type": "invalid_request_error",
            "param": "top_p",
            "code": "invalid_value",
        }
    }
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-route-tier"] == "fast"
    assert len(response.headers.get_list("content-type")) == 1
    assert gateway.recorder.records[0].code == "engine"


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
async def test_anthropics_validation_errors_are_anthropics(gateway: Gateway, path: str) -> None:
    """vLLM sends them in OpenAI's form."""
    fault = "1 validation error:\n  {'type': 'missing', 'loc': ('body', 'max_tokens'), 'msg': 'F'}"
    gateway.fast.answer = gateway.strong.answer = refusal(400, fault, "body.max_tokens")
    response = await gateway.client.post(path, json={"messages": HELLO})
    body = response.json()
    assert (response.status_code, body["type"]) == (400, "error")
    assert body["error"] == {"type": "invalid_request_error", "message": "max_tokens: F"}


async def test_a_broken_chat_stream(gateway: Gateway, client: openai.AsyncOpenAI) -> None:
    """The client sees our error in place of the engine's, and the stream ends with it."""
    gateway.fast.answer = stream_of(CHAT_CHUNK, CHAT_FAILED + DONE)
    stream = await client.chat.completions.create(model="fast", messages=HELLO, stream=True)
    assert await anext(stream)
    with pytest.raises(openai.APIError) as raised:
        await anext(stream)
    assert raised.value.code == "upstream_failed"
    assert "/usr" not in raised.value.message
    record = gateway.recorder.records[0]
    assert (record.outcome, record.code) == (Outcome.BROKEN_STREAM, "upstream_failed")
    assert gateway.fast.open_exchanges == 0


async def test_a_broken_message_stream(gateway: Gateway, claude: anthropic.AsyncAnthropic) -> None:
    """The same in Anthropic's dialect."""
    gateway.fast.answer = stream_of(MESSAGE_START + MESSAGE_FAILED)
    stream = await claude.messages.create(model="fast", messages=HELLO, max_tokens=4, stream=True)
    with pytest.raises(anthropic.APIStatusError) as raised:
        _ = [event async for event in stream]
    body = raised.value.body
    assert isinstance(body, dict)
    assert body["error"]["type"] == "api_error"
    assert "/usr" not in str(body)
    assert gateway.recorder.records[0].code == "upstream_failed"


async def test_a_broken_responses_stream(gateway: Gateway, client: openai.AsyncOpenAI) -> None:
    """vLLM breaks off without an event; ours has the documented fields, and the client raises."""
    gateway.fast.answer = stream_of(RESPONSE_DELTA, b"event: error\ndata: {}\n\n")
    response = await gateway.client.post(
        "/v1/responses", json={"model": "fast", "input": "Hello", "stream": True}
    )
    _, event, rest = response.text.split("\n\n")
    assert rest == ""
    name, data = event.split("\n")
    document = json.loads(data.removeprefix("data: "))
    assert name == "event: error"
    assert (document["type"], document["code"]) == ("error", "upstream_failed")
    assert document["sequence_number"] == 5
    gateway.fast.answer = stream_of(RESPONSE_DELTA, b"event: error\ndata: {}\n\n")
    stream = await client.responses.create(model="fast", input="Hello", stream=True)
    with pytest.raises(openai.APIError):
        _ = [event async for event in stream]


@pytest.mark.parametrize("chunks", [[CHAT_REFUSED, DONE], [CHAT_REFUSED[:9], CHAT_REFUSED[9:]]])
async def test_a_stream_that_is_refused_before_it_begins(
    gateway: Gateway, client: openai.AsyncOpenAI, chunks: list[bytes]
) -> None:
    """vLLM has sent its 200 when it looks at some fields; the client gets the 400 all the same."""
    gateway.fast.answer = stream_of(*chunks)
    with pytest.raises(openai.BadRequestError) as raised:
        await client.chat.completions.create(model="fast", messages=HELLO, stream=True)
    assert (raised.value.param, raised.value.status_code) == ("logprobs", 400)
    record = gateway.recorder.records[0]
    assert (record.outcome, record.code, record.status) == (Outcome.CLIENT_ERROR, "engine", 400)


async def test_a_stream_that_fails_before_it_begins(gateway: Gateway) -> None:
    """A failure before the first event is a 502, not a broken stream."""
    gateway.fast.answer = stream_of(CHAT_FAILED + DONE)
    response = await gateway.chat(model="fast", stream=True)
    assert (response.status_code, response.json()["error"]["code"]) == (502, "upstream_failed")
    assert gateway.recorder.records[0].outcome is Outcome.SERVER_ERROR


async def test_a_refusal_within_a_stream(gateway: Gateway) -> None:
    """After the first event it is an event, and still the client's error."""
    gateway.fast.answer = stream_of(CHAT_CHUNK + CHAT_REFUSED + DONE)
    response = await gateway.chat(model="fast", stream=True)
    assert response.content.startswith(CHAT_CHUNK)
    assert DONE not in response.content
    event = json.loads(response.content.split(b"data: ")[-1])
    assert event["error"]["param"] == "logprobs"
    assert gateway.recorder.records[0].outcome is Outcome.CLIENT_ERROR


TOOL_USE = {"type": "tool_use", "id": "t", "name": "f", "input": {"stop_reason": "end_turn"}}
FORCED = {"type": "tool", "name": "f"}


def message(content: list[dict[str, object]], stop_reason: str) -> FakeAnswer:
    document = {
        "id": "m",
        "type": "message",
        "role": "assistant",
        "content": content,
        "model": "demo-fast",
        "stop_reason": stop_reason,
        "usage": {"input_tokens": 3, "output_tokens": 5},
    }
    return FakeAnswer([json.dumps(document, separators=(",", ":")).encode()])


@pytest.mark.parametrize(
    ("choice", "content", "engine", "expected"),
    [
        (FORCED, [TOOL_USE], "end_turn", "tool_use"),
        (FORCED, [TOOL_USE], "max_tokens", "max_tokens"),
        (FORCED, [{"type": "text", "text": "Hi"}], "end_turn", "end_turn"),
        ({"type": "auto"}, [TOOL_USE], "end_turn", "end_turn"),
        (None, [{"type": "text", "text": "Hi"}], "end_turn", "end_turn"),
    ],
)
async def test_a_forced_tool_is_used(
    gateway: Gateway,
    claude: anthropic.AsyncAnthropic,
    choice: dict[str, str] | None,
    content: list[dict[str, object]],
    engine: str,
    expected: str,
) -> None:
    """A client that runs tools while `stop_reason` is `tool_use` runs the one that it forced."""
    gateway.fast.answer = message(content, engine)
    options = {} if choice is None else {"tool_choice": choice}
    tools = [{"name": "f", "input_schema": {"type": "object"}}]
    answer = await claude.messages.create(
        model="fast", messages=HELLO, max_tokens=9, tools=tools, **options
    )
    assert answer.stop_reason == expected
    assert [block.model_dump(exclude_none=True) for block in answer.content] == content
    assert gateway.recorder.records[0].usage.completion_tokens == 5


@pytest.fixture(params=[Endpoint.RESPONSES, Endpoint.INPUT_TOKENS])
def path(request: pytest.FixtureRequest) -> str:
    return str(request.param.value)


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("previous_response_id", "resp_1", "previous_response_not_found"),
        ("conversation", "conv_1", "unsupported_parameter"),
        ("conversation", {"id": "conv_1"}, "unsupported_parameter"),
        ("background", True, "unsupported_parameter"),
        ("prompt", {"id": "pmpt_1"}, "unsupported_parameter"),
    ],
)
async def test_what_would_need_stored_responses(
    gateway: Gateway, path: str, field: str, value: object, code: str
) -> None:
    """One clear error names the field, the limit and what to send instead; no engine is asked."""
    response = await gateway.client.post(path, json={"input": "Hello", field: value})
    error = response.json()["error"]
    assert (response.status_code, error["type"]) == (400, "invalid_request_error")
    assert (error["param"], error["code"]) == (field, code)
    assert "stores no responses" in error["message"]
    assert "`input`" in error["message"]
    assert not gateway.fast.requests
    record = gateway.recorder.records[0]
    assert (record.outcome, record.code) == (Outcome.CLIENT_ERROR, code)


@pytest.mark.parametrize(
    "body",
    [
        rb'{"input": "Hello", "\u0070revious_response_id": "resp_1"}',
        rb'{"input": "Hello", "back\u0067round": true, "store": true}',
        rb'{"input": [{ "id" : "msg_1" }]}',
        rb'{"input": [{"type": "item\u005freference", "id": "msg_1"}]}',
        rb'{"previous_response_id": null, "input": "Hello", "previous_response_id": "resp_1"}',
    ],
)
async def test_no_spelling_asks_an_engine_for_stored_responses(
    gateway: Gateway, path: str, body: bytes
) -> None:
    """What counts is the JSON, not its bytes; an engine would answer 500 to some of it."""
    headers = {"content-type": "application/json"}
    response = await gateway.client.post(path, content=body, headers=headers)
    assert response.status_code == 400
    assert "stores no responses" in response.json()["error"]["message"]
    assert not gateway.fast.requests


@pytest.mark.parametrize("item", [{"type": "item_reference", "id": "msg_1"}, {"id": "msg_1"}])
async def test_items_that_are_stored_nowhere(
    gateway: Gateway, path: str, item: dict[str, str]
) -> None:
    """vLLM fails with a 500 where an item only names another one."""
    items = [{"role": "user", "content": "Hello", "id": "msg_0"}, item]
    response = await gateway.client.post(path, json={"input": items})
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, "input[1]")
    assert "stores no responses" in error["message"]


@pytest.mark.parametrize(
    "body",
    [
        {"store": True},
        {"store": False, "background": False, "previous_response_id": None},
        {"conversation": None, "prompt": None},
        {"tools": [{"type": "function", "name": "f", "parameters": {"background": 1}}]},
    ],
)
async def test_what_needs_nothing_stored(gateway: Gateway, body: dict[str, object]) -> None:
    """`store` is on by default in OpenAI's clients, and the fields' empty values say nothing."""
    response = await gateway.client.post("/v1/responses", json={"input": "Hello", **body})
    assert response.status_code == 200


@pytest.mark.parametrize(
    ("method", "suffix"),
    [("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/input_items")],
)
async def test_pages_of_stored_responses(gateway: Gateway, method: str, suffix: str) -> None:
    """Each says that no response is stored, in OpenAI's form."""
    response = await gateway.client.request(method, f"/v1/responses/resp_1{suffix}")
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (404, "response_not_found")
    assert "resp_1" in error["message"]
    assert "stores no responses" in error["message"]


async def test_the_openai_client_asks_for_a_stored_response(client: openai.AsyncOpenAI) -> None:
    """Its exception for what is not there."""
    for ask in (
        client.responses.retrieve("resp_1"),
        client.responses.delete("resp_1"),
        client.responses.cancel("resp_1"),
    ):
        with pytest.raises(openai.NotFoundError):
            await ask
    with pytest.raises(openai.NotFoundError):
        _ = [item async for item in client.responses.input_items.list("resp_1")]


async def test_input_tokens(gateway: Gateway, client: openai.AsyncOpenAI) -> None:
    """The engine's tokenizer counts, and the client gets OpenAI's object."""
    gateway.strong.answer = FakeAnswer([b'{"count":17,"max_model_len":4096,"tokens":[1,2]}'])
    counted = await client.responses.input_tokens.count(model="strong", input="Hello")
    assert (counted.input_tokens, counted.object) == (17, "response.input_tokens")
    request = gateway.strong.requests[0]
    assert request._path == b"/tokenize"
    body = json.loads(request._body)
    assert (body["model"], body["messages"]) == ("demo-strong", HELLO)
    assert gateway.recorder.records[0].endpoint is Endpoint.INPUT_TOKENS


async def test_an_engine_that_cannot_count(gateway: Gateway) -> None:
    """An answer that is no count is the engine's failure."""
    gateway.fast.answer = gateway.strong.answer = FakeAnswer([b"[]"])
    response = await gateway.client.post("/v1/responses/input_tokens", json={"input": "Hello"})
    assert response.status_code == 502
