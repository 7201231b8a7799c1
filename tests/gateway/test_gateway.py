"""The HTTP surface: answers, headers, errors, records."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from serve_app.config.bodies import BodiesConfig
from serve_app.config.limits import LimitsConfig
from serve_app.config.runtime import DeadlinesConfig, RuntimeConfig
from serve_app.core.call import Endpoint, Outcome
from serve_app.core.errors import (
    BodyTooSlow,
    DeadlineExceeded,
    TierOverloaded,
    TierUnavailable,
    UpstreamFailed,
)
from serve_app.core.load import BreakerState, TierLoad
from serve_app.gateway.feedback import read_page_body
from serve_app.gateway.held_bodies import BodyPlace, HeldBodies
from serve_app.gateway.request_headers import RequestHeaders
from tests.fakes import FakeAnswer
from tests.gateway.conftest import Gateway

EVENTS = [
    b'data: {"choices":[{"delta":{"content":"a"}}],"usage":null}\n\n',
    b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n',
    b"data: [DONE]\n\n",
]


def stream_of(*chunks: bytes, error: Exception | None = None) -> FakeAnswer:
    return FakeAnswer(chunks, content_type=b"text/event-stream; charset=utf-8", error=error)


async def test_an_answer_carries_its_decision(gateway: Gateway) -> None:
    """Every answer says which tier and model wrote it, why, and under which request id."""
    response = await gateway.chat(model="auto")
    assert response.status_code == 200
    assert response.headers["x-route-tier"] == "fast"
    assert response.headers["x-route-model"] == "demo-fast"
    assert response.headers["x-route-reason"] == "simple"
    assert 0 <= float(response.headers["x-route-score"]) <= 1
    assert len(response.headers.get_list("x-request-id")) == 1
    assert "server" not in response.headers


async def test_the_request_id_of_the_caller_is_kept(gateway: Gateway) -> None:
    """A caller's own id joins its logs to ours."""
    response = await gateway.client.post(
        "/v1/chat/completions",
        json={"messages": [{"role": "user", "content": "Hi"}]},
        headers={"x-request-id": "trace-1"},
    )
    assert response.headers["x-request-id"] == "trace-1"
    assert gateway.recorder.records[0].request_id == "trace-1"


async def test_the_body_is_addressed_to_the_model_that_answers(gateway: Gateway) -> None:
    """`auto` and tier names become the engine's model id; all else that the engine may see is
    forwarded as it came."""
    await gateway.chat(model="strong", seed=1, logit_bias={"7": 1.5}, unknown={"a": [1, 2]})
    body = json.loads(gateway.strong.requests[0]._body)
    assert body["model"] == "demo-strong"
    assert (body["seed"], body["logit_bias"]) == (1, {"7": 1.5})
    assert "unknown" not in body


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/route"])
async def test_a_refused_field_never_reaches_an_engine(gateway: Gateway, path: str) -> None:
    """The answer is a 400 that names the field, and what the operator sets at run time holds."""
    body = {"messages": [{"role": "user", "content": "x"}], "priority": 1}
    response = await gateway.client.post(path, json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "priority"
    assert gateway.fast.requests == []
    allowed = BodiesConfig(allowed_fields=("priority",))
    gateway.pipeline.runtime = RuntimeConfig(bodies=allowed)
    assert (await gateway.client.post(path, json=body)).status_code == 200


@pytest.mark.parametrize("asked", [False, True])
async def test_usage_is_counted_and_hidden_unless_asked_for(gateway: Gateway, asked: bool) -> None:
    """Streams always tell us their usage, and the client only what it wanted to know."""
    gateway.fast.answer = stream_of(*EVENTS)
    options = {"stream_options": {"include_usage": True}} if asked else {}
    response = await gateway.chat(stream=True, **options)
    expected = EVENTS if asked else [EVENTS[0], EVENTS[2]]
    assert response.content == b"".join(expected)
    assert json.loads(gateway.fast.requests[0]._body)["stream_options"]["include_usage"] is True
    record = gateway.recorder.records[0]
    assert (record.usage.prompt_tokens, record.usage.completion_tokens) == (3, 2)
    assert record.first_byte_s is not None
    assert record.outcome is Outcome.OK


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"{", None),
        (b"[]", None),
        (b"\xff", None),
        (b'{"messages": "x"}', "messages"),
        (b'{"messages": []}', "messages"),
        (b'{"messages": [1]}', "messages[0]"),
        (b'{"messages": [{"role": 1}]}', "messages[0].role"),
        (b'{"messages": [{"role": "user", "content": 1}]}', "messages[0].content"),
        (b'{"model": 1, "messages": [{"role": "user"}]}', "model"),
        (b'{"stream": "yes", "messages": [{"role": "user"}]}', "stream"),
        (b'{"tools": {}, "messages": [{"role": "user"}]}', "tools"),
    ],
)
async def test_bad_bodies_name_the_field(gateway: Gateway, body: bytes, param: str | None) -> None:
    """A body that cannot be read is OpenAI's error object with the field's path."""
    headers = {"content-type": "application/json"}
    response = await gateway.client.post("/v1/chat/completions", content=body, headers=headers)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert error["message"]
    assert gateway.recorder.records[0].outcome is Outcome.CLIENT_ERROR


async def test_deep_nesting_is_an_error_not_a_crash(gateway: Gateway) -> None:
    """A body nested too deeply is refused."""
    nested = b"[" * 500 + b"]" * 500
    body = b'{"messages": [{"role": "user", "content": "x"}], "user": ' + nested + b"}"
    headers = {"content-type": "application/json"}
    response = await gateway.client.post("/v1/chat/completions", content=body, headers=headers)
    assert response.status_code == 400


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/unknown", 404),
        ("POST", "/pause", 404),
        ("POST", "/v1/load_lora_adapter", 404),
        ("GET", "/metrics", 404),
        ("GET", "/v1/chat/completions", 405),
        ("DELETE", "/v1/models", 405),
        ("GET", "/v1/models/nope", 404),
    ],
)
async def test_what_is_not_there(gateway: Gateway, method: str, path: str, status: int) -> None:
    """Nothing is forwarded but the listed paths, and every refusal is an error object."""
    response = await gateway.client.request(method, path)
    assert response.status_code == status
    assert response.json()["error"]["type"] == "invalid_request_error"
    if status == 405:
        assert response.headers["allow"]
    assert not gateway.fast.requests


async def test_unknown_models_get_openais_404(gateway: Gateway) -> None:
    """A model that no tier has is not silently answered by another."""
    response = await gateway.chat(model="gpt-4o")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "application/json", "content-encoding": "gzip"},
    ],
)
async def test_other_media_types(gateway: Gateway, headers: dict[str, str]) -> None:
    """A body that is not plain JSON gets 415."""
    response = await gateway.client.post("/v1/chat/completions", content=b"{}", headers=headers)
    assert response.status_code == 415


@pytest.mark.parametrize("chunked", [False, True])
async def test_the_body_limit(gateway: Gateway, chunked: bool) -> None:
    """A long body is refused by its length, declared or not."""
    gateway.pipeline.runtime = RuntimeConfig(limits=LimitsConfig(body_bytes_max=64))

    async def pieces():  # type: ignore[no-untyped-def]
        for _ in range(10):
            yield b" " * 32

    content = pieces() if chunked else b" " * 320
    headers = {"content-type": "application/json"}
    response = await gateway.client.post("/v1/chat/completions", content=content, headers=headers)
    assert response.status_code == 413


@pytest.mark.parametrize("length", ["0" * 5000 + "2", "9" * 5000, "+2", "two"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/route"])
async def test_an_odd_length_is_no_fault_of_ours(gateway: Gateway, length: str, path: str) -> None:
    """Servers let some of them through; what counts is the body that comes."""
    headers = {"content-length": length, "content-type": "application/json"}
    response = await gateway.client.post(path, content=b"[]", headers=headers)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_json")


async def test_the_limit_of_calls_in_flight(gateway: Gateway) -> None:
    """One call more than allowed gets 429 and the time to come back."""
    gateway.pipeline.runtime = RuntimeConfig(limits=LimitsConfig(calls_max=1))
    gateway.fast.answer = FakeAnswer([b"{"], hang=True)
    held = asyncio.create_task(gateway.chat())
    async with asyncio.timeout(1):
        while not gateway.fast.requests:
            await asyncio.sleep(0)
    response = await gateway.chat()
    held.cancel()
    await asyncio.gather(held, return_exceptions=True)
    assert response.status_code == 429
    assert int(response.headers["retry-after"]) > 0
    assert gateway.fast.open_exchanges == 0


@pytest.mark.parametrize(
    ("error", "status", "retry"),
    [
        (TierOverloaded(5), 503, "5"),
        (TierUnavailable(2), 503, "2"),
        (DeadlineExceeded("first byte", 1), 504, None),
        (UpstreamFailed(), 502, None),
    ],
)
async def test_tier_faults(
    gateway: Gateway, error: Exception, status: int, retry: str | None
) -> None:
    """Each fault has its status, and overload says when to come back."""
    gateway.fast.answer = error  # type: ignore[assignment]
    response = await gateway.chat(model="fast")
    assert response.status_code == status
    assert response.headers.get("retry-after") == retry
    assert response.headers["x-route-tier"] == "fast"
    assert gateway.recorder.records[0].outcome is Outcome.SERVER_ERROR


async def test_a_crash_of_ours_tells_nothing(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unforeseen exception becomes a plain 500, its text stays in the log."""

    def explode(call: object) -> None:
        raise RuntimeError("/secret/path 10.0.0.1")

    monkeypatch.setattr(gateway.pipeline, "decide", explode)
    response = await gateway.chat()
    assert response.status_code == 500
    assert "secret" not in response.text
    assert "10.0.0.1" not in response.text


async def test_a_client_that_stops_reading_is_cut_off_in_time(gateway: Gateway) -> None:
    """The deadline for the whole call holds, although the server waits in the middle of a send."""
    gateway.pipeline.runtime = RuntimeConfig(
        deadlines=DeadlinesConfig(total_s=0.1), limits=LimitsConfig(calls_max=1)
    )
    gateway.fast.answer = FakeAnswer([b"data: 1\n\n"] * 3, content_type=b"text/event-stream")
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/chat/completions",
        "headers": [(b"content-type", b"application/json")],
    }
    body = b'{"model": "fast", "stream": true, "messages": [{"role": "user", "content": "Hi"}]}'
    messages = [{"type": "http.request", "body": body, "more_body": False}]
    sent = []

    async def receive() -> dict[str, object]:
        if messages:
            return messages.pop()
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: dict[str, object]) -> None:
        if message.get("body"):
            await asyncio.Event().wait()  # What a server does whose client's window is full.
        sent.append(message)

    async with asyncio.timeout(5):
        await gateway.app(scope, receive, send)
    assert [message["type"] for message in sent] == ["http.response.start"]
    assert gateway.fast.open_exchanges == 0
    (record,) = gateway.recorder.records
    assert (record.outcome, record.code) == (Outcome.BROKEN_STREAM, "deadline_exceeded")
    assert (await gateway.chat()).status_code == 200


async def test_a_body_that_does_not_come_is_not_waited_for(gateway: Gateway) -> None:
    """The client is told, and the record says so."""
    gateway.pipeline.runtime = RuntimeConfig(deadlines=DeadlinesConfig(first_byte_s=0.05))

    async def drip() -> AsyncIterator[bytes]:
        yield b'{"messages": '
        await asyncio.Event().wait()

    response = await gateway.client.post(
        "/v1/chat/completions", content=drip(), headers={"content-type": "application/json"}
    )
    assert response.status_code == 408
    assert response.json()["error"]["code"] == "request_timeout"
    assert not gateway.fast.requests


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses"])
async def test_an_answer_without_a_body_is_none(gateway: Gateway, path: str, stream: bool) -> None:
    """The client gets an error that its library knows, not a success that it cannot read."""
    kind = b"text/event-stream" if stream else b"application/json"
    gateway.fast.answer = FakeAnswer([], content_type=kind)
    body = {"messages": [{"role": "user", "content": "Hi"}], "input": "Hi", "stream": stream}
    response = await gateway.client.post(path, json=body)
    assert response.status_code == 502
    assert response.json()["error"]["type"] in ("server_error", "api_error")
    (record,) = gateway.recorder.records
    assert (record.outcome, record.code) == (Outcome.SERVER_ERROR, "upstream_failed")
    assert gateway.fast.open_exchanges == 0


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
async def test_a_stream_that_breaks_says_so(gateway: Gateway, path: str) -> None:
    """After the first byte an error is an event in the dialect of the stream."""
    gateway.fast.answer = stream_of(EVENTS[0], error=UpstreamFailed())
    body = {"messages": [{"role": "user", "content": "Hi"}], "stream": True, "max_tokens": 5}
    response = await gateway.client.post(path, json=body)
    assert response.status_code == 200
    last = response.content.split(b"\n\n")[-2]
    data = json.loads(last.split(b"data: ", 1)[1])
    assert data["error"]["message"]
    assert last.startswith(b"event: error\n") == (path == "/v1/messages")
    assert gateway.recorder.records[0].outcome is Outcome.BROKEN_STREAM


async def test_anthropics_errors_are_anthropics(gateway: Gateway) -> None:
    """`/v1/messages` speaks Anthropic's dialect, errors included."""
    response = await gateway.client.post("/v1/messages", json={"messages": "x"})
    assert response.status_code == 400
    body = response.json()
    assert body["type"] == "error"
    assert body["error"]["type"] == "invalid_request_error"
    missing = await gateway.client.get("/v1/messages")
    assert missing.json()["type"] == "error"


async def test_a_client_that_leaves_frees_everything(gateway: Gateway) -> None:
    """Cancelling the call closes the exchange and is recorded as a disconnect."""
    gateway.fast.answer = FakeAnswer([b"{"], hang=True)
    held = asyncio.create_task(gateway.chat())
    async with asyncio.timeout(1):
        while not gateway.fast.open_exchanges:
            await asyncio.sleep(0)
    held.cancel()
    await asyncio.gather(held, return_exceptions=True)
    assert gateway.fast.open_exchanges == 0
    assert gateway.recorder.records[0].outcome is Outcome.DISCONNECTED


async def test_models(gateway: Gateway) -> None:
    """The list holds `auto`, tiers and model ids; each can be asked for alone."""
    listed = (await gateway.client.get("/v1/models")).json()
    assert [model["id"] for model in listed["data"]] == [
        "auto",
        "fast",
        "strong",
        "demo-fast",
        "demo-strong",
    ]
    for name in ("auto", "fast", "demo-strong"):
        assert (await gateway.client.get(f"/v1/models/{name}")).json()["object"] == "model"


@pytest.mark.parametrize(
    ("body", "endpoint"),
    [
        ({"messages": [{"role": "user", "content": "Hi"}]}, Endpoint.CHAT),
        ({"system": "s", "messages": [{"role": "user", "content": "Hi"}]}, Endpoint.MESSAGES),
        ({"prompt": "Hi"}, Endpoint.COMPLETIONS),
        ({"input": [{"role": "user", "content": "Hi"}]}, Endpoint.RESPONSES),
    ],
)
async def test_route_explains_without_generating(
    gateway: Gateway, body: dict[str, object], endpoint: Endpoint
) -> None:
    """`/v1/route` decides for any generation body and asks no engine."""
    response = await gateway.client.post("/v1/route", json=body)
    answer = response.json()
    assert response.status_code == 200
    assert answer["endpoint"] == endpoint.value
    assert answer["tier"] == response.headers["x-route-tier"]
    assert 0 <= answer["score"] <= 1
    assert not gateway.fast.requests


async def test_health_and_readiness(gateway: Gateway) -> None:
    """Alive is not ready: `/ready` waits for every tier."""
    assert (await gateway.client.get("/health")).json() == {"status": "ok"}
    assert (await gateway.client.get("/ready")).status_code == 200
    gateway.readiness.ready = False
    response = await gateway.client.get("/ready")
    assert response.status_code == 503
    assert response.json()["tiers"][0]["ready"] is False


async def test_ready_shows_the_circuit_breaker_of_each_tier(gateway: Gateway) -> None:
    """The state only; a tier whose replicas run is ready in every state."""
    for state in BreakerState:
        gateway.fast.state = TierLoad(breaker=state)
        response = await gateway.client.get("/ready")
        assert response.status_code == 200
        assert response.json()["tiers"][0]["breaker"] == state.value
    assert (await gateway.client.get("/health")).status_code == 200


@pytest.mark.parametrize("root", ["", "/llm", "/a/b"])
async def test_below_a_prefix_everything_is_as_without(gateway: Gateway, root: str) -> None:
    """`root_path` is Serve's `route_prefix`: calls, pages and the dialect of errors do not mind."""
    gateway.client._transport.root_path = root  # type: ignore[attr-defined]  # httpx names it so
    body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
    answer = await gateway.client.post(f"{root}/v1/chat/completions", json=body)
    assert (answer.status_code, len(gateway.recorder.records)) == (200, 1)
    assert (await gateway.client.get(f"{root}/v1/models/fast")).status_code == 200
    wrong = await gateway.client.get(f"{root}/v1/messages")
    assert (wrong.status_code, wrong.json()["type"]) == (405, "error")
    nowhere = await gateway.client.post(f"{root}/v1/nowhere")
    assert nowhere.json()["error"]["message"] == "Unknown request URL: POST /v1/nowhere."


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/chat/completions/", 200),
        ("POST", "/v1/route/", 200),
        ("GET", "/v1/models/", 200),
        ("GET", "/v1/models/fast/", 200),
        ("GET", "/health/", 200),
        ("POST", "/v1/nowhere/", 404),
        ("GET", "/", 404),
    ],
)
async def test_a_slash_at_the_end_is_answered_not_redirected(
    gateway: Gateway, method: str, path: str, status: int
) -> None:
    """A redirected POST loses its body in many clients."""
    body = {"messages": [{"role": "user", "content": "Hello"}]} if method == "POST" else None
    assert (await gateway.client.request(method, path, json=body)).status_code == status


@pytest.mark.parametrize("path", ["/v1/route", "/v1/feedback"])
async def test_a_client_that_leaves_a_page_is_no_fault_of_ours(
    gateway: Gateway, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It left in the middle of its body: no 500, no traceback."""
    status, _ = await post_in_pieces(gateway, path, [b'{"mess', None])
    assert status == 499
    assert not caplog.records


async def test_a_page_does_not_wait_for_ever_for_a_body(gateway: Gateway) -> None:
    """A body that stops or drips in is given up; the client is told why."""

    async def receive() -> dict[str, object]:
        await asyncio.sleep(0.01)
        return {"type": "http.request", "body": b" ", "more_body": True}

    headers = RequestHeaders({"headers": []})
    with BodyPlace(HeldBodies(gateway.pipeline)) as held, pytest.raises(BodyTooSlow):
        await read_page_body(receive, headers, 1000, held, body_s=0.05)


async def post_in_pieces(
    gateway: Gateway, path: str, pieces: list[bytes | None]
) -> tuple[int, bytes]:
    """POST a body that never ends; None is the client's leaving."""
    messages = iter(pieces)

    async def receive() -> dict[str, object]:
        for piece in messages:
            if piece is None:
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": piece, "more_body": True}
        await asyncio.Event().wait()
        raise AssertionError

    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
    }
    app = gateway.client._transport.app  # type: ignore[attr-defined]  # httpx names it so
    await app(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])
