"""What hostile requests meet: HAProxy, Serve's own HTTP layers and a Router, all of them real."""

from __future__ import annotations

import json
import re
import socket
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import orjson
import pytest

from serve_app.config.environment import socket_dir
from tests.serve.local.test_load import begin_and_leave, until
from tests.serve.service import Service, listening_on, wait_for

pytestmark = pytest.mark.serve

HELLO = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
PATH = "/v1/chat/completions"
IDLE = 4300
"""As many idle connections once shut every other client out."""


def ask(service: Service, request: bytes, *, port: int | None = None) -> tuple[bytes, bytes]:
    """Head and body of the answer to a request, byte by byte as given."""
    address = urlsplit(service.base_url)
    assert address.hostname
    assert address.port
    with socket.create_connection((address.hostname, port or address.port), 30) as connection:
        connection.sendall(request)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    return head, body


def post(*headers: bytes) -> bytes:
    """A call with these headers; the connection is closed behind it."""
    body = json.dumps(HELLO).encode()
    lines = [
        b"POST " + PATH.encode() + b" HTTP/1.1",
        b"Host: localhost",
        b"Connection: close",
        b"Content-Type: application/json",
        b"Content-Length: %d" % len(body),
        *headers,
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


@pytest.mark.parametrize(
    "header",
    [
        "x-request-disconnect-disabled: ?1",
        "X-REQUEST-Disconnect-disabled: ?1",
        "x-request-timeout-seconds: 0",
    ],
)
async def test_a_client_cannot_switch_its_leaving_off(local: Service, header: str) -> None:
    """Its generation is cancelled, and its place is free within a second, as for any other."""
    left_at = await begin_and_leave(local, stream=True, headers=f"{header}\r\n")
    await until(lambda: local.ongoing("tier-fast") == 0, timeout_s=5, what="the lease is free")
    assert time.monotonic() - left_at < 1.5


@pytest.mark.parametrize(
    "header", [b"x-request-timeout-seconds: 0.001", b"serve_multiplexed_model_id: other"]
)
def test_serves_own_headers_have_no_effect(local: Service, header: bytes) -> None:
    """A call with them is answered as without."""
    head, body = ask(local, post(header, b"x-route-tier: fast"))
    assert head.startswith(b"HTTP/1.1 200 ")
    assert orjson.loads(body)["object"] == "chat.completion"


@pytest.mark.parametrize(
    "header", [b"x-session-id: caf\xe9", b"x-route-tier: f\xe4st", b"x-feedback-consent: \xff"]
)
def test_a_byte_that_is_no_text_is_a_fault_of_the_client(local: Service, header: bytes) -> None:
    """400 in the form of OpenAI's errors, although Serve decodes headers as UTF-8."""
    head, body = ask(local, post(header))
    assert head.startswith(b"HTTP/1.1 400 ")
    assert orjson.loads(body)["error"]["code"] == "invalid_value"


@pytest.mark.parametrize(
    "header", [b"x-name: caf\xe9", b"traceparent: \xe9", b"x-request-id: caf\xe9"]
)
def test_a_byte_that_is_no_text_elsewhere_does_no_harm(local: Service, header: bytes) -> None:
    """Headers that choose nothing are nobody's concern."""
    head, _ = ask(local, post(header))
    assert head.startswith(b"HTTP/1.1 200 ")


def test_a_trailer_does_not_override_a_header(local: Service) -> None:
    """What a proxy in front has set stays."""
    body = json.dumps(HELLO).encode()
    request = (
        b"POST " + PATH.encode() + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        b"Content-Type: application/json\r\nx-route-tier: strong\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\nx-route-tier: fast\r\n\r\n"
    ) % (len(body), body)
    head, _ = ask(local, request)
    assert b"x-route-tier: strong" in head
    assert b"x-route-reason: header" in head


@pytest.mark.parametrize("sent", [b"mine.1", b"<script>", b"a" * 5000])
def test_the_answers_request_id_is_the_one_in_the_log(local: Service, sent: bytes) -> None:
    """It is plain, there is one, and `/v1/feedback` takes it; the caller's only if it is plain."""
    head, _ = ask(local, post(b"x-request-id: " + sent))
    (found,) = re.findall(rb"(?i)^x-request-id: ([A-Za-z0-9._:-]{1,128})\r?$", head, re.MULTILINE)
    assert (found == sent) == (sent == b"mine.1")
    logs = Path("/tmp/ray/session_latest/logs/serve")

    def logged() -> bool:
        return any(found.decode() in log.read_text() for log in logs.glob("access_*.jsonl"))

    wait_for(logged, timeout_s=10, what="the access log has the call")
    feedback = {"request_id": found.decode(), "right": True}
    answer = httpx.post(f"{local.base_url}/v1/feedback", json=feedback)
    assert answer.status_code == 202, answer.text


def test_a_wish_for_another_protocol_hides_no_request(local: Service) -> None:
    """HAProxy takes the wish away; a Router that is asked directly refuses it, and is done."""
    wish = post(b"Upgrade: foo").replace(b"Connection: close", b"Connection: upgrade, close")
    head, body = ask(local, wish)
    assert head.startswith(b"HTTP/1.1 200 ")
    assert orjson.loads(body)["object"] == "chat.completion"
    hidden = b"GET /health HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    head, body = ask(
        local, wish.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" + hidden, port=router_port(local)
    )
    assert head.startswith(b"HTTP/1.1 400 ")
    assert orjson.loads(body)["error"]["code"] == "bad_request"


def test_nothing_is_shown_of_the_inside(local: Service) -> None:
    """Neither by HAProxy nor by the Router behind it; both still say that they live."""
    for port in (None, router_port(local)):
        for path, status in [("/-/routes", 404), ("/-/healthz", 200)]:
            request = f"GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n".encode()
            head, body = ask(local, request, port=port)
            assert head.startswith(b"HTTP/1.1 %d " % status)
            assert b"llm" not in head + body


def test_a_router_refuses_what_is_not_http_in_json(local: Service) -> None:
    """For nodes that reach it without HAProxy."""
    head, body = ask(local, b"GARBAGE\r\n\r\n", port=router_port(local))
    assert head.startswith(b"HTTP/1.1 400 ")
    assert orjson.loads(body)["error"]["code"] == "bad_request"


def router_port(service: Service) -> int:
    """Where HAProxy finds the Router."""
    # Ray makes a directory for each node.
    (config,) = [path.read_text() for path in socket_dir(service.run_dir).rglob("haproxy.cfg")]
    (port,) = set(re.findall(r"^    server \S+ [\d.]+:(3\d{4}) check", config, re.MULTILINE))
    return int(port)


def test_haproxy_shows_its_figures_on_the_loopback_only(local: Service) -> None:
    """Metrics and statistics tell of every backend."""
    # One that was replaced lives on for its open connections, and listens no more.
    (listening,) = [
        ports
        for process in local.processes()
        if process.exe().endswith("/bin/haproxy") and (ports := listening_on(process))
    ]
    assert {9101, 8404} <= {port for _, port in listening}
    assert {host for host, _ in listening} == {"127.0.0.1"}


def test_idle_connections_shut_nobody_out(local: Service) -> None:
    """`/health` answers while they are there, and they are not for long."""
    address = urlsplit(local.base_url)
    idle = [socket.create_connection((address.hostname, address.port), 30) for _ in range(IDLE)]
    try:
        began = time.monotonic()
        assert httpx.get(f"{local.base_url}/health", timeout=5).status_code == 200
        assert local.chat(model="fast").status_code == 200
        assert time.monotonic() - began < 5
        wait_for(lambda: idle[-1].recv(1024) == b"", timeout_s=20, what="HAProxy closes them")
    finally:
        for connection in idle:
            connection.close()
