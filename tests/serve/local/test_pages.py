"""The pages for people on the real stack, through Serve and HAProxy."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.serve.service import Service, wait_for

pytestmark = pytest.mark.serve


def read_numbers(local: Service) -> dict[str, Any]:
    """The first event of a stream."""
    with httpx.stream("GET", f"{local.base_url}/dashboard/events", timeout=30) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        for line in stream.iter_lines():
            if line.startswith("data: "):
                found: dict[str, Any] = json.loads(line.removeprefix("data: "))
                return found
    raise AssertionError("the stream has no event")


def test_a_browser_finds_the_playground(local: Service) -> None:
    """From `/`; an API client does not, and the headers pass every proxy."""
    page = httpx.get(local.base_url, headers={"accept": "text/html"}, follow_redirects=True)
    assert page.url.path == "/playground"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert httpx.get(local.base_url, headers={"accept": "*/*"}).status_code == 404
    facts = httpx.get(f"{local.base_url}/playground/facts").json()
    assert [tier["name"] for tier in facts["tiers"]] == ["fast", "strong"]


def test_the_numbers_of_real_engines(local: Service) -> None:
    """A running call is seen with its lease and in the report of its engine; then it is counted."""
    before = read_numbers(local)
    body = {"model": "fast", "stream": True, "max_tokens": 2000, "ignore_eos": True}
    document = {**body, "messages": [{"role": "user", "content": "Hello"}]}
    url = f"{local.base_url}/v1/chat/completions"
    with httpx.stream("POST", url, json=document, timeout=60) as answer:
        assert answer.status_code == 200

        def running() -> dict[str, Any] | None:
            tier: dict[str, Any] = read_numbers(local)["tiers"][0]
            return tier if tier["leases"] and tier["running"] else None

        tier = wait_for(running, timeout_s=20, what="the engine reports its call")
        assert tier["ready"]
        assert 0 < tier["kv_used_ratio"] <= 1

    def ended() -> bool:
        found = read_numbers(local)["calls"]
        return bool(found["ended_ever"] > before["calls"]["ended_ever"] and not found["in_flight"])

    wait_for(ended, timeout_s=20, what="the stopped call is counted")
