"""The first layer: what Serve would obey or stumble over does not reach it."""

from __future__ import annotations

import re

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from serve_app.config.tls import CERTIFICATE
from serve_app.gateway.edge import Edge, build_edge, check_tls
from serve_app.gateway.request_headers import REQUEST_ID

MESSAGES = "/v1/messages"
CHAT = "/v1/chat/completions"


async def show_headers(scope: Scope, receive: Receive, send: Send) -> None:
    """What stands behind the edge: it answers with the headers that it was given."""
    headers = [
        (name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]
    ]
    response: Response = JSONResponse(headers)
    await response(Request(scope, receive).scope, receive, send)


@pytest.fixture
def edge() -> httpx.AsyncClient:
    """A client of the edge alone."""
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app=Edge(show_headers)), base_url="http://test"
    )


async def seen(edge: httpx.AsyncClient, *headers: tuple[str | bytes, str | bytes]) -> set[str]:
    """The names of these headers that got past the edge."""
    named = [
        (name.encode() if isinstance(name, str) else name, value.encode("latin-1"))
        if isinstance(value, str)
        else (name if isinstance(name, bytes) else name.encode(), value)
        for name, value in headers
    ]
    response = await edge.post(CHAT, headers=named)
    assert response.status_code == 200, response.text
    return {name for name, _ in response.json()} & {
        name.decode("latin-1").lower() for name, _ in named
    }


@pytest.mark.parametrize(
    "name",
    [
        "x-request-disconnect-disabled",
        "X-Request-Disconnect-Disabled",
        "x-request-timeout-seconds",
        "serve_multiplexed_model_id",
        "serve-multiplexed-model-id",
        "Serve_Multiplexed-Model_Id",
        "x-serve-router-anything",
        "x_session_id",
    ],
)
async def test_serves_own_headers_go_no_further(edge: httpx.AsyncClient, name: str) -> None:
    """Serve never sees them, in whatever spelling it would have understood."""
    assert await seen(edge, (name, "?1"), ("x-other", "1")) == {"x-other"}


async def test_other_headers_pass(edge: httpx.AsyncClient) -> None:
    """The edge touches nothing that nobody reads, be it Latin-1."""
    headers = [("x-route-tier", "fast"), ("x-session-id", "s"), ("x-name", "Zoë")]
    assert await seen(edge, *headers) == {"x-route-tier", "x-session-id", "x-name"}


@pytest.mark.parametrize("value", [b"caf\xe9", b"\xff", "日".encode()])
@pytest.mark.parametrize("name", [b"x-session-id", b"x-route-tier", b"x-feedback-consent"])
@pytest.mark.parametrize("path", [CHAT, MESSAGES])
async def test_a_control_header_is_ascii(
    edge: httpx.AsyncClient, name: bytes, value: bytes, path: str
) -> None:
    """Serve would answer 500 in plain text; the client learns which header is wrong."""
    response = await edge.post(path, headers=[(name, value)])
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/json"
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert name.decode() in response.json()["error"]["message"]
    assert ("type" in response.json()) == (path == MESSAGES)


async def test_trace_headers_that_are_no_text_are_dropped(edge: httpx.AsyncClient) -> None:
    """They choose nothing, so the call goes on without them."""
    assert await seen(edge, ("traceparent", b"\xe9"), ("tracestate", "a=b")) == {"tracestate"}


async def test_a_control_header_comes_once(edge: httpx.AsyncClient) -> None:
    """Two of them contradict each other; which would count is nobody's to guess."""
    headers = [("x-route-tier", "strong"), ("X-Route-Tier", "fast")]
    response = await edge.post(CHAT, headers=headers)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "x-route-tier"


@pytest.mark.parametrize("value", ["abc", "A-z.0_9:" * 16])
async def test_a_plain_request_id_is_kept(edge: httpx.AsyncClient, value: str) -> None:
    """It is the one that Serve sends back and that the access log holds."""
    response = await edge.post(CHAT, headers={"x-request-id": value})
    assert ["x-request-id", value] in response.json()


@pytest.mark.parametrize(
    "values", [[b"<script>"], [b"a" * 129], [b""], [b"caf\xe9"], [b"a b"], [b"one", b"two"], []]
)
async def test_any_other_request_id_is_replaced(
    edge: httpx.AsyncClient, values: list[bytes]
) -> None:
    """Nothing of the caller's is sent back; there is one id, and `/v1/feedback` would take it."""
    response = await edge.post(CHAT, headers=[(b"x-request-id", value) for value in values])
    (found,) = [value for name, value in response.json() if name == "x-request-id"]
    assert REQUEST_ID.fullmatch(found.encode())
    assert found.encode() not in values


async def test_the_edges_own_errors_carry_the_request_id(edge: httpx.AsyncClient) -> None:
    """Serve adds the id to what passes it; what does not pass has it too."""
    headers = {"x-request-id": "mine", "x-route-tier": "é".encode("latin-1")}
    response = await edge.post(CHAT, headers=headers)
    assert response.headers.get_list("x-request-id") == ["mine"]


async def test_what_fails_in_serve_is_a_500_in_json(caplog: pytest.LogCaptureFixture) -> None:
    """uvicorn's own answer would be plain text; the log has the traceback."""

    async def fails(scope: Scope, receive: Receive, send: Send) -> None:
        raise UnicodeDecodeError("utf-8", b"secret", 0, 1, "in Ray")

    transport = httpx.ASGITransport(app=Edge(fails))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        response = await client.get("/health", headers={"x-request-id": "mine"})
    assert (response.status_code, response.headers["x-request-id"]) == (500, "mine")
    assert response.json()["error"]["type"] == "server_error"
    assert "secret" not in response.text
    assert "request mine failed" in caplog.text


@pytest.mark.parametrize("path", ["/-/routes", "/-/routes/", "/-/Routes"])
async def test_serves_list_of_applications_is_closed(edge: httpx.AsyncClient, path: str) -> None:
    """It names applications and prefixes."""
    response = await edge.get(path)
    assert (response.status_code, response.json()["error"]["code"]) == (404, "unknown_url")
    assert (await edge.get("/-/healthz")).status_code == 200


async def test_the_applications_prefix_does_not_open_it() -> None:
    """`root_path` of Serve's own options stands before every path."""
    transport = httpx.ASGITransport(app=Edge(show_headers), root_path="/api")
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        assert (await client.get("/api/-/routes")).status_code == 404


async def test_there_are_no_websockets() -> None:
    """No path has one, and Serve would read the headers of the handshake."""
    sent: list[str] = []

    async def send(message: dict[str, object]) -> None:
        sent.append(str(message["type"]))

    await Edge(show_headers)({"type": "websocket", "headers": []}, None, send)  # type: ignore[arg-type]
    assert sent == ["websocket.close"]


def test_the_list_of_rays_headers_is_complete() -> None:
    """Every header that the installed Ray names in its constants is known here."""
    constants = pytest.importorskip("ray.serve._private.constants")
    named = {
        value
        for name, value in vars(constants).items()
        if isinstance(value, str)
        and re.fullmatch(r"(?!RAY_).*(HEADER|HEADER_PREFIX|MODEL_ID|SESSION_ID)", name)
    }
    assert named == {
        "x-request-id",
        "x-request-timeout-seconds",
        "x-request-disconnect-disabled",
        "serve_multiplexed_model_id",
        "x-session-id",
        "x-serve-router-",
    }


def test_serve_is_given_the_edge() -> None:
    """Serve's own check of what the callback returns accepts it."""
    http_util = pytest.importorskip("ray.serve._private.http_util")
    (middleware,) = http_util.validate_http_proxy_callback_return(build_edge())
    assert middleware.cls is Edge


@pytest.mark.parametrize(
    ("environment", "starts"),
    [
        ({}, True),
        ({"RAY_SERVE_ENABLE_HA_PROXY": "0"}, True),
        ({CERTIFICATE: "/c", "RAY_SERVE_ENABLE_HA_PROXY": "1"}, True),
        ({CERTIFICATE: "/c", "RAY_SERVE_ENABLE_HA_PROXY": "0"}, False),
        ({CERTIFICATE: "/c"}, False),
    ],
)
def test_no_port_is_opened_without_the_tls_that_is_asked_for(
    environment: dict[str, str], starts: bool
) -> None:
    """HAProxy alone serves TLS; without it the port would take prompts in plain text."""
    if starts:
        check_tls(environment)
        return
    with pytest.raises(ValueError, match="only HAProxy serves TLS"):
        check_tls(environment)
