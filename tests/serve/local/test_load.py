"""Leases, disconnects, load and changes under load, as Ray and the engines count them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import urlsplit

import httpx
import pytest

from tests.serve.leases import leased
from tests.serve.service import Service, settled, wait_for

pytestmark = pytest.mark.serve

LONG = {
    "model": "fast",
    "max_tokens": 7000,
    "ignore_eos": True,
    "messages": [{"role": "user", "content": "Hello"}],
}


async def until(condition: Callable[[], bool], *, timeout_s: float, what: str) -> None:
    """`wait_for`, while this loop's own connections go on."""
    await asyncio.to_thread(wait_for, condition, timeout_s=timeout_s, what=what)


def generated(service: Service) -> float:
    """Tokens that the fast tier's engine has counted."""
    return service.metric("ray_vllm_generation_tokens_total", model_name="demo-fast")


async def begin_and_leave(service: Service, *, stream: bool, headers: str = "") -> float:
    """Start a long call, close its connection in the midst; the monotonic time of leaving.

    A bare socket, because an HTTP client may keep the connection of a call that it gives up.
    """
    before = generated(service)
    body = json.dumps({**LONG, "stream": stream}).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    )
    host, port = urlsplit(service.base_url).hostname, urlsplit(service.base_url).port
    _, writer = await asyncio.open_connection(host, port)
    writer.write(head.encode() + body)
    await until(lambda: generated(service) > before, timeout_s=20, what="the engine generates")
    assert service.ongoing("tier-fast") == 1
    left_at = time.monotonic()
    writer.close()
    await writer.wait_closed()
    return left_at


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_stops_the_engine(local: Service, stream: bool) -> None:
    """The lease is free within a second, and the engine itself stops counting new tokens."""
    before = generated(local)
    left_at = await begin_and_leave(local, stream=stream)
    await until(lambda: local.ongoing("tier-fast") == 0, timeout_s=5, what="the lease is free")
    assert time.monotonic() - left_at < 1.0
    await until(
        lambda: local.metric("ray_vllm_num_requests_running", model_name="demo-fast") == 0,
        timeout_s=15,
        what="the engine runs nothing",
    )
    # The two metrics are not exported in one step.
    stopped_at = await asyncio.to_thread(settled, lambda: generated(local))
    assert stopped_at < before + LONG["max_tokens"]


async def test_500_streams_at_once(local: Service) -> None:
    """Five hundred streams are all answered in full, and nothing stays counted or asked for."""
    body = {**LONG, "max_tokens": 8, "stream": True, "stream_options": {"include_usage": True}}
    limits = httpx.Limits(max_connections=500)
    async with httpx.AsyncClient(base_url=local.base_url, timeout=300, limits=limits) as http:

        async def ask(number: int) -> str:
            model = "fast" if number % 5 else "strong"
            response = await http.post("/v1/chat/completions", json={**body, "model": model})
            assert response.status_code == 200, response.text
            return response.text

        texts = await asyncio.gather(*map(ask, range(500)))
    assert all(text.endswith("data: [DONE]\n\n") for text in texts)
    assert all('"completion_tokens":8' in text for text in texts)
    for name in ("tier-fast", "tier-strong", "Router"):
        await until(lambda name=name: local.ongoing(name) == 0, timeout_s=10, what=f"{name} idles")
    await until(
        lambda: (
            local.metric("ray_serve_app_leases_open") == 0
            and local.metric("ray_serve_deployment_queued_queries") == 0
        ),
        timeout_s=10,
        what="no place is held or asked for",
    )


async def test_a_hot_change_of_the_user_config(local: Service) -> None:
    """New thresholds hold for new calls within seconds, and calls in flight do not notice."""
    replicas = {replica.pid for replica in local.replica_processes("Router")}
    answers: list[httpx.Response] = []
    done = asyncio.Event()
    async with httpx.AsyncClient(base_url=local.base_url, timeout=120) as http:

        async def load() -> None:
            while not done.is_set():
                body = {**LONG, "model": "auto", "max_tokens": 64, "stream": True}
                answers.append(await http.post("/v1/chat/completions", json=body))

        long = asyncio.create_task(
            http.post("/v1/chat/completions", json={**LONG, "max_tokens": 4000, "stream": True})
        )
        workers = [asyncio.create_task(load()) for _ in range(8)]
        await asyncio.to_thread(local.deploy, {"routing": {"strong_score_min": 0.0}})
        async with asyncio.timeout(60):
            while not answers or answers[-1].headers["x-route-tier"] != "strong":
                await asyncio.sleep(0.1)
        done.set()
        await asyncio.gather(*workers)
        # A config that does not hold is refused, and the one before goes on.
        await asyncio.to_thread(local.deploy, {"routing": {"strong_scor_min": 0.9}})
        for _ in range(20):
            response = await http.post("/v1/route", json={"prompt": "Hello"})
            assert response.headers["x-route-tier"] == "strong"
            await asyncio.sleep(0.1)
        answers.append(await long)
    await asyncio.to_thread(local.deploy, {})
    assert {answer.status_code for answer in answers} == {200}
    assert all(answer.text.endswith("data: [DONE]\n\n") for answer in answers)
    assert {answer.headers["x-route-tier"] for answer in answers} == {"fast", "strong"}
    assert {replica.pid for replica in local.replica_processes("Router")} == replicas


def test_an_engine_port_answers_live_leases_only(local: Service) -> None:
    """Whoever finds the port of an engine gets nothing without a lease, nor after it has ended."""
    with leased("tier-fast") as lease:
        tokenize = b'{"prompt": "Hello"}'
        assert httpx.post(f"{lease.engine}/tokenize", content=tokenize).status_code == 403
        assert lease.post("/tokenize", tokenize).json()["count"] > 0
        assert lease.post("/v1/models").status_code == 404
        assert lease.post("/reset_prefix_cache").status_code == 404
        assert local.ongoing("tier-fast") == 1
        assert lease.post("/lease").status_code == 200
        wait_for(lambda: local.ongoing("tier-fast") == 0, timeout_s=5, what="the lease ended")
        assert lease.post("/tokenize", tokenize).status_code == 403


@pytest.mark.parametrize("stream", [True, False])
def test_the_engine_counts_what_a_caller_who_left_had_taken(local: Service, stream: bool) -> None:
    """The end of the lease tells it, for streams and for answers in one piece."""
    body = json.dumps({**LONG, "model": "demo-fast", "stream": stream}).encode()
    with leased("tier-fast") as lease:
        before = generated(local)
        with suppress(httpx.ReadTimeout), lease.stream(body, read_s=2.0) as response:
            for _, _line in zip(range(20), response.iter_lines(), strict=False):
                pass
        ended = lease.post("/lease").headers["x-lease-usage"]
        prompt_tokens, completion_tokens = map(int, ended.split())
        assert prompt_tokens > 1
        assert completion_tokens >= 10
        counted = settled(lambda: generated(local)) - before
        # A step that was under way when the client left is in the engine's own count alone.
        assert completion_tokens <= counted <= completion_tokens + 8


def test_a_lease_that_is_never_used_expires(local: Service) -> None:
    """A Router that died after it got a place does not hold it."""
    with leased("tier-strong"):
        assert local.ongoing("tier-strong") == 1
    wait_for(lambda: local.ongoing("tier-strong") == 0, timeout_s=15, what="the lease expired")


def test_telemetry(local: Service) -> None:
    """Calls, decisions, times, tokens and errors can be seen, under labels from closed sets."""
    assert local.chat(model="auto", stream=True).status_code == 200
    assert local.chat(model="no-such-model").status_code == 404

    def seen() -> bool:
        return (
            local.metric("ray_serve_app_calls_total", outcome="ok", application="llm") > 0
            and local.metric("ray_serve_app_decisions_total", reason="simple") > 0
            and local.metric("ray_serve_app_time_to_first_token_seconds_count", tier="fast") > 0
            and local.metric("ray_serve_app_time_per_output_token_seconds_count") > 0
            and local.metric("ray_serve_app_tokens_total", direction="in") > 0
            and local.metric("ray_serve_app_tokens_total", direction="out") > 0
            and local.metric("ray_serve_app_errors_total", code="model_not_found") > 0
        )

    wait_for(seen, timeout_s=40, what="every metric is exported")
    wait_for(
        lambda: local.metric("ray_serve_app_leases_open", tier="fast") == 0,
        timeout_s=15,
        what="no lease is open",
    )
