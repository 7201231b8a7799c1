"""One call: what is sent, what is measured, what is tried again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import orjson
import pytest

from serve_app.offline.evaluate.answers import GradedAnswer
from serve_app.offline.evaluate.checks import parse_check
from serve_app.offline.evaluate.client import read_events
from serve_app.offline.evaluate.dataset import Item
from serve_app.offline.evaluate.evaluation_errors import CallRefused, EndpointDown
from tests.offline.evaluate.fakes import (
    BASE_URL,
    USAGE,
    FakeEndpoint,
    Respond,
    refuse,
    render_event,
    render_stream,
    send,
    stream,
)

MESSAGES = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "3 + 4?"}]
SEVEN = Item("q1", MESSAGES, parse_check({"type": "numeric", "value": 7}))


async def ask(
    *script: httpx.Response | httpx.HTTPError | Respond, item: Item = SEVEN
) -> GradedAnswer:
    """The answer of an endpoint with this script."""
    return await FakeEndpoint(script).client().ask("auto", item)


async def test_a_right_answer() -> None:
    """The pieces make the answer; headers and the last event tell the rest."""
    response = stream(
        render_stream("It is", " 7."),
        x_route_tier="fast",
        x_route_reason="simple",
        x_route_score="0.2500",
    )
    answer = await ask(response)
    assert (answer.id, answer.model, answer.answer) == ("q1", "auto", "It is 7.")
    assert (answer.right, answer.error) == (True, None)
    assert (answer.tier, answer.reason, answer.score) == ("fast", "simple", 0.25)
    assert answer.usage == USAGE


async def test_what_is_sent() -> None:
    """Messages go as they are; a stream with usage is asked for, under the settings."""
    endpoint = FakeEndpoint([stream(render_stream("7"))])
    await endpoint.client().ask("fast", SEVEN)
    [request] = endpoint.requests
    assert str(request.url) == f"{BASE_URL}/chat/completions"
    assert orjson.loads(request.content) == {
        "model": "fast",
        "messages": MESSAGES,
        "max_tokens": 64,
        "temperature": 0,
        "seed": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def test_the_first_token_is_the_first_with_content() -> None:
    """Neither the head nor the role is a token."""

    async def body() -> AsyncIterator[bytes]:
        role, content, *rest = render_stream("7")
        yield role
        await asyncio.sleep(0.05)
        yield content
        await asyncio.sleep(0.05)
        for event in rest:
            yield event

    answer = await ask(httpx.Response(200, content=body()))
    assert answer.ttft_s is not None
    assert answer.total_s is not None
    assert 0.05 <= answer.ttft_s <= answer.total_s - 0.04


async def test_an_endpoint_that_tells_no_decision() -> None:
    """Any OpenAI endpoint will do; an answer without a word is wrong and has no first token."""
    answer = await ask(stream(render_stream(usage=None)))
    assert (answer.answer, answer.right, answer.error) == ("", False, None)
    assert (answer.tier, answer.score, answer.ttft_s, answer.usage) == (None, None, None, None)


async def test_usage_keeps_its_counts() -> None:
    """Details, which are objects or null, are left out."""
    usage = {**USAGE, "prompt_tokens_details": None, "completion_tokens_details": {"x": 1}}
    assert (await ask(stream(render_stream("7", usage=usage)))).usage == USAGE


@pytest.mark.parametrize(("status", "retry_after"), [(429, "3"), (503, "1.5")])
async def test_busy_is_tried_again(status: int, retry_after: str) -> None:
    """After as long as the endpoint wants."""
    busy = refuse(status, retry_after=retry_after)
    endpoint = FakeEndpoint([busy, busy, stream(render_stream("7"))])
    answer = await endpoint.client().ask("auto", SEVEN)
    assert answer.right is True
    assert endpoint.waits_s == [float(retry_after)] * 2


@pytest.mark.parametrize("retry_after", ["", "0", "soon", "nan", "Fri, 31 Dec 2027 23:59:59 GMT"])
async def test_without_a_wait_the_pauses_grow(retry_after: str) -> None:
    """Six tries, and then the call has failed."""
    endpoint = FakeEndpoint([refuse(503, "full", retry_after=retry_after)])
    answer = await endpoint.client().ask("auto", SEVEN)
    assert (answer.right, answer.error) == (None, "status 503: full")
    assert endpoint.waits_s == [0.5, 1, 2, 4, 8]


async def test_no_wait_is_endless() -> None:
    """An endpoint that names a day is asked again in half a minute."""
    endpoint = FakeEndpoint([refuse(429, retry_after="86400"), stream(render_stream("7"))])
    await endpoint.client().ask("auto", SEVEN)
    assert endpoint.waits_s == [30]


@pytest.mark.parametrize("error", [httpx.ReadError("cut"), httpx.RemoteProtocolError("bye")])
async def test_a_call_that_was_not_answered_is_tried_again(error: httpx.HTTPError) -> None:
    """A kept connection may close at any time, before the head of an answer."""
    assert (await ask(error, stream(render_stream("7")))).right is True
    answer = await ask(error)
    assert answer.error == f"the connection failed ({type(error).__name__})"


async def test_silence_is_not_tried_again() -> None:
    """Another wait would be as long as the first."""
    endpoint = FakeEndpoint([httpx.ReadTimeout("slow"), stream(render_stream("7"))])
    answer = await endpoint.client().ask("auto", SEVEN)
    assert answer.error == "the connection failed (ReadTimeout)"
    assert len(endpoint.requests) == 1


async def test_nobody_is_there() -> None:
    """Three tries, then the evaluation is over with a line that names the address."""
    endpoint = FakeEndpoint([httpx.ConnectError("refused")])
    with pytest.raises(EndpointDown, match=f"No server answers at {BASE_URL}"):
        await endpoint.client().ask("auto", SEVEN)
    assert endpoint.waits_s == [0.5, 1]


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_a_refusal_ends_it(status: int) -> None:
    """A wrong key or model will not get better with the next question."""
    with pytest.raises(CallRefused, match=rf"model 'auto': status {status}: unknown \[31m"):
        await ask(refuse(status, "unknown\n\x1b[31m"))


@pytest.mark.parametrize(
    ("response", "error"),
    [
        (refuse(400, "too long"), "status 400: too long"),
        (httpx.Response(500, text="<html>oops"), "status 500: <html>oops"),
        (httpx.Response(502, json={"error": "flat"}), 'status 502: {"error":"flat"}'),
        (httpx.Response(500, json={"error": {"message": None}}), "status 500: {"),
        (stream(render_stream("7")[:-1]), "the stream was cut off"),
        (stream([]), "the stream was cut off"),
        (stream([render_event({"error": {"message": "out of memory"}})]), "out of memory"),
        (stream([b"data: {oops\n\n"]), "an event of the stream is not a chat completion chunk"),
        (stream([render_event([])]), "an event of the stream is not a chat completion chunk"),
        (stream([render_event({"choices": None})]), "an event of the stream is not a chat"),
    ],
)
async def test_a_call_that_failed(response: httpx.Response, error: str) -> None:
    """It is neither right nor wrong, and says why; it is not tried again."""
    endpoint = FakeEndpoint([response])
    answer = await endpoint.client().ask("auto", SEVEN)
    assert (answer.right, answer.answer, len(endpoint.requests)) == (None, None, 1)
    assert answer.error is not None
    assert answer.error.startswith(error)


async def test_a_stream_that_was_cut() -> None:
    """An answer that has begun is not asked for twice."""
    endpoint = FakeEndpoint([stream(render_stream("7")[:2], httpx.ReadError("cut"))])
    answer = await endpoint.client().ask("auto", SEVEN)
    assert answer.error == "the connection failed (ReadError)"
    assert len(endpoint.requests) == 1


async def test_a_check_that_breaks() -> None:
    """The answer is kept, but nobody knows whether it is right."""
    item = Item("q", MESSAGES, parse_check({"type": "json_schema", "value": {"$ref": "#/no"}}))
    answer = await ask(stream(render_stream("{}")), item=item)
    assert (answer.answer, answer.right) == ("{}", None)
    assert answer.error is not None


@pytest.mark.parametrize("chunk_bytes", [1, 2, 3, 7, 1000])
async def test_chunk_borders_mean_nothing(chunk_bytes: int) -> None:
    """Nor do comments, event names and carriage returns; a line separator is text."""
    body = ': hi\nevent: x\ndata: {"a": "\u2028北"}\r\n\r\ndata:[DONE]\n\n'.encode()
    chunks = [body[at : at + chunk_bytes] for at in range(0, len(body), chunk_bytes)]
    events = [event async for event in read_events(send(chunks))]
    assert events == ['{"a": "\u2028北"}'.encode(), b"[DONE]"]


async def test_log_probabilities_are_kept_where_they_are_asked_for() -> None:
    """Those of the tokens in their order."""
    tokens = [
        {
            "choices": [
                {"index": 0, "delta": {"content": c}, "logprobs": {"content": [{"logprob": p}]}}
            ]
        }
        for c, p in (("7", -0.25), (".", 0.0))
    ]
    endpoint = FakeEndpoint([stream([*map(render_event, tokens), b"data: [DONE]\n\n"])])
    answer = await endpoint.client(logprobs=True).ask("fast", SEVEN)
    assert answer.logprobs == [-0.25, 0.0]
    assert orjson.loads(endpoint.requests[0].content)["logprobs"] is True
