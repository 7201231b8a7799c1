"""The deadline of the first token, as a client of the gateway sets it."""

from __future__ import annotations

import httpx
import pytest

from serve_app.config.runtime import RuntimeConfig
from serve_app.core.errors import WouldBeLate
from tests.gateway.conftest import Gateway

HEADER = "x-deadline-ms"


async def ask(gateway: Gateway, value: str | None, **body: object) -> httpx.Response:
    document = {"messages": [{"role": "user", "content": "Hello"}], **body}
    headers = {} if value is None else {HEADER: value}
    return await gateway.client.post("/v1/chat/completions", json=document, headers=headers)


@pytest.mark.parametrize(
    ("configured_s", "value", "expected_s"),
    [
        (None, None, None),
        (None, "1500", 1.5),
        (None, "99999999", 120.0),
        (2.0, None, 2.0),
        (2.0, "1500", 1.5),
        (2.0, "9000", 2.0),
    ],
)
async def test_a_client_can_shorten_the_deadline_and_not_lengthen_it(
    gateway: Gateway, configured_s: float | None, value: str | None, expected_s: float | None
) -> None:
    """Without a deadline of the service, the limit of the first byte is the longest."""
    gateway.pipeline.runtime = RuntimeConfig.model_validate(
        {"deadlines": {"first_token_s": configured_s}}
    )
    assert (await ask(gateway, value)).status_code == 200
    (deadlines,) = gateway.fast.given_deadlines
    if expected_s is None:
        assert deadlines.first_token_at is None
    else:
        assert deadlines.first_token_at is not None
        arrived_at = deadlines.total_at - deadlines.total_s
        assert deadlines.first_token_at - arrived_at == pytest.approx(expected_s)


@pytest.mark.parametrize("value", ["", "0", "-5", "1.5", "2s", "123456789", "ten"])
async def test_a_deadline_that_is_none_is_rejected(gateway: Gateway, value: str) -> None:
    """The error names the header, and no tier is asked."""
    response = await ask(gateway, value)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == HEADER
    assert not gateway.fast.requests


async def test_a_call_that_no_tier_can_begin_in_time_is_rejected(gateway: Gateway) -> None:
    """Where the call may go to no other tier, the client learns when to come back."""
    gateway.fast.answer = WouldBeLate(retry_after_s=7)
    response = await ask(gateway, "1500", model="fast")
    assert response.status_code == 503
    assert response.headers["retry-after"] == "7"
    assert response.json()["error"]["code"] == "deadline_unreachable"
    (record,) = gateway.recorder.records
    assert record.code == "deadline_unreachable"
    assert record.late_tiers == ["fast"]
