"""Leases, disconnects, load and changes under load, as Ray and the engines count them."""

from __future__ import annotations

import asyncio
import time

import httpx
import pytest
import ray
from ray import serve

from tests.serve.service import Service, wait_for

pytestmark = pytest.mark.serve

LONG = {
    "model": "fast",
    "max_tokens": 7000,
    "ignore_eos": True,
    "messages": [{"role": "user", "content": "Hello"}],
}
EXPORT_S = 1.0
"""How often Ray exports metrics in the tests (service.FAST_METRICS)."""


def generated(service: Service) -> float:
    """Tokens that the fast tier's engine has counted."""
    return service.metric("ray_vllm_generation_tokens_total", model_name="demo-fast")


async def begin_and_leave(service: Service, *, stream: bool) -> float:
    """Start a long call and leave it when Ray counts it; the monotonic time of leaving."""
    async with httpx.AsyncClient(base_url=service.base_url, timeout=60) as http:
        call = asyncio.create_task(
            http.post("/v1/chat/completions", json={**LONG, "stream": stream})
        )
        async with asyncio.timeout(20):
            while await asyncio.to_thread(service.ongoing, "tier-fast") == 0:
                await asyncio.sleep(0.05)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    return time.monotonic()


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_stops_the_engine(local: Service, stream: bool) -> None:
    """The lease is free within a second, and the engine itself stops counting new tokens."""
    before = generated(local)
    left_at = await begin_and_leave(local, stream=stream)
    wait_for(lambda: local.ongoing("tier-fast") == 0, timeout_s=5, what="the lease is free")
    assert time.monotonic() - left_at < 1.0
    wait_for(
        lambda: local.metric("ray_vllm_num_requests_running", model_name="demo-fast") == 0,
        timeout_s=15,
        what="the engine runs nothing",
    )
    wait_for(lambda: generated(local) > before, timeout_s=15, what="its tokens are exported")
    stopped_at = generated(local)
    await asyncio.sleep(3 * EXPORT_S)
    assert generated(local) == stopped_at < before + LONG["max_tokens"]


async def test_500_streams_at_once(local: Service) -> None:
    """Five hundred streams are all answered in full, and nothing stays counted as ongoing."""
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
    for tier in ("tier-fast", "tier-strong", "Router"):
        wait_for(lambda tier=tier: local.ongoing(tier) == 0, timeout_s=5, what=f"{tier} is idle")


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
    await asyncio.to_thread(local.deploy, {})
    assert {answer.status_code for answer in answers} == {200}
    assert all(answer.text.endswith("data: [DONE]\n\n") for answer in answers)
    assert {answer.headers["x-route-tier"] for answer in answers} == {"fast", "strong"}
    assert {replica.pid for replica in local.replica_processes("Router")} == replicas


def test_an_engine_port_answers_live_leases_only(local: Service) -> None:
    """Whoever finds the port of an engine gets nothing without a lease, nor after it has ended."""
    handle = serve.get_deployment_handle("tier-fast", "llm").options(stream=True)
    stream = handle.lease.remote("test-lease", 1.0)
    host, port = next(iter(stream))
    url = f"http://{host}:{port}/v1/models"
    assert httpx.get(url).status_code == 403
    assert httpx.get(url, headers={"x-lease-id": "guess"}).status_code == 403
    assert httpx.get(url, headers={"x-lease-id": "test-lease"}).status_code == 200
    wait_for(lambda: local.ongoing("tier-fast") == 0, timeout_s=5, what="the lease ended")
    assert httpx.get(url, headers={"x-lease-id": "test-lease"}).status_code == 403


def test_a_lease_that_is_never_used_expires(local: Service) -> None:
    """A Router that died after it got a place does not hold it."""
    handle = serve.get_deployment_handle("tier-strong", "llm").options(stream=True)
    stream = handle.lease.remote("unused-lease", 3600.0)
    next(iter(stream))
    assert local.ongoing("tier-strong") == 1
    wait_for(lambda: local.ongoing("tier-strong") == 0, timeout_s=15, what="the lease expired")
    assert ray.is_initialized()


def test_telemetry(local: Service) -> None:
    """Calls, decisions, times, tokens and errors can be seen, under labels from closed sets."""
    assert local.chat(model="auto", stream=True).status_code == 200
    assert local.chat(model="no-such-model").status_code == 404

    def seen() -> bool:
        return (
            local.metric("ray_serve_app_calls_total", outcome="ok", tier="fast") > 0
            and local.metric("ray_serve_app_decisions_total", reason="simple") > 0
            and local.metric("ray_serve_app_time_to_first_token_seconds_count", tier="fast") > 0
            and local.metric("ray_serve_app_time_per_output_token_seconds_count") > 0
            and local.metric("ray_serve_app_tokens_total", direction="in") > 0
            and local.metric("ray_serve_app_tokens_total", direction="out") > 0
            and local.metric("ray_serve_app_errors_total", code="model_not_found") > 0
        )

    wait_for(seen, timeout_s=40, what="every metric is exported")
    assert local.metric("ray_serve_app_leases_open", tier="fast") == 0
