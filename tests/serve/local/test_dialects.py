"""The engine's own refusals and token counts, as the official clients see them."""

from __future__ import annotations

from typing import Any

import anthropic
import httpx
import openai
import pytest

from tests.serve.local.test_clients import HELLO, TOOL
from tests.serve.service import Service

pytestmark = pytest.mark.serve

CITY = TOOL["function"]["parameters"]
LONG = [{"role": "user", "content": "word " * 20_000}]
CALLED = [
    {"role": "user", "content": "Weather?"},
    {"type": "function_call", "call_id": "c1", "name": "get_weather", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c1", "output": "sunny"},
]


def post(local: Service, path: str, body: dict[str, Any]) -> httpx.Response:
    return httpx.post(f"{local.base_url}{path}", json={"model": "fast", **body}, timeout=60)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/chat/completions", {"messages": LONG}, "messages"),
        ("/v1/completions", {"prompt": LONG[0]["content"]}, "prompt"),
        ("/v1/responses", {"input": LONG}, "input"),
    ],
)
def test_openais_context_overflow(
    local: Service, path: str, body: dict[str, Any], param: str, stream: bool
) -> None:
    """The code that agents look for, on each endpoint."""
    response = post(local, path, {**body, "stream": stream})
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (400, "context_length_exceeded")
    assert (error["type"], error["param"]) == ("invalid_request_error", param)


def test_anthropics_errors(local: Service) -> None:
    """Overflow, validation and an unknown field's value, each in Anthropic's object."""
    with anthropic.Anthropic(base_url=local.base_url, api_key="none", max_retries=0) as claude:
        with pytest.raises(anthropic.BadRequestError, match=r"prompt is too long: \d+ tokens > "):
            claude.messages.create(model="fast", messages=LONG, max_tokens=4)
        with pytest.raises(anthropic.BadRequestError, match="prompt is too long"):
            claude.messages.count_tokens(model="fast", messages=LONG)
    for path in ("/v1/messages", "/v1/messages/count_tokens"):
        body = post(local, path, {"messages": [{"role": "alien", "content": "x"}]}).json()
        assert body["type"] == "error"
        assert body["error"]["type"] == "invalid_request_error"
        assert body["request_id"]
        assert "loc" not in body["error"]["message"]
    missing = post(local, "/v1/messages", {"messages": HELLO}).json()
    assert missing["error"]["message"] == "max_tokens: Field required"


def test_a_stream_that_the_engine_refuses(local: Service) -> None:
    """vLLM looks at `logit_bias` after its 200; the client gets a 400."""
    with (
        openai.OpenAI(base_url=f"{local.base_url}/v1", api_key="none", max_retries=0) as client,
        pytest.raises(openai.BadRequestError) as raised,
    ):
        client.chat.completions.create(
            model="fast", messages=HELLO, stream=True, logit_bias={"99999999": 5}
        )
    assert raised.value.param == "logit_bias"
    assert "parameter=" not in raised.value.message


def test_a_forced_tool_ends_as_one(local: Service) -> None:
    """Whole and streamed."""
    with anthropic.Anthropic(base_url=local.base_url, api_key="none", max_retries=0) as claude:
        options: dict[str, Any] = {
            "model": "fast",
            "messages": HELLO,
            "max_tokens": 300,
            "tools": [{"name": "get_weather", "input_schema": CITY}],
            "tool_choice": {"type": "tool", "name": "get_weather"},
        }
        whole = claude.messages.create(**options)
        with claude.messages.stream(**options) as stream:
            streamed = stream.get_final_message()
    for message in (whole, streamed):
        assert message.stop_reason == "tool_use"
        assert message.content[-1].type == "tool_use"


@pytest.mark.parametrize(
    "body",
    [
        {"input": "Hello"},
        {"input": HELLO, "instructions": "Be brief.", "reasoning": {"effort": "low"}},
        {"input": CALLED, "tools": [{"type": "function", **TOOL["function"]}]},
        {
            "input": [
                {"role": "user", "content": [{"type": "input_text", "text": "Hello"}]},
                {"role": "assistant", "content": "Hm"},
                {"role": "user", "content": "Go on"},
            ]
        },
    ],
)
def test_input_tokens_are_those_of_the_call(local: Service, body: dict[str, Any]) -> None:
    """The count is what `/v1/responses` then reports as its usage."""
    counted = post(local, "/v1/responses/input_tokens", body)
    assert counted.status_code == 200, counted.text
    answered = post(local, "/v1/responses", {**body, "max_output_tokens": 1, "store": True})
    assert counted.json() == {
        "object": "response.input_tokens",
        "input_tokens": answered.json()["usage"]["input_tokens"],
    }


def test_nothing_is_stored(local: Service) -> None:
    """A response that has just been given cannot be continued, and the error says what to do."""
    with openai.OpenAI(base_url=f"{local.base_url}/v1", api_key="none", max_retries=0) as client:
        first = client.responses.create(model="fast", input="Hello", max_output_tokens=4)
        with pytest.raises(openai.BadRequestError, match="whole conversation") as raised:
            client.responses.create(model="fast", input="And?", previous_response_id=first.id)
        assert raised.value.code == "previous_response_not_found"
        with pytest.raises(openai.NotFoundError, match="stores no responses"):
            client.responses.retrieve(first.id)
