"""Absurd bodies meet the gateway alone: each is read or refused, and none takes long to read."""

from __future__ import annotations

import contextlib

import orjson
import pytest

from serve_app.core.call import Endpoint
from serve_app.core.errors import BadRequest
from serve_app.gateway.wire import parse_call
from tests.hostile.bodies import absurd_bodies

BODIES = absurd_bodies()


def test_each_is_read_or_refused() -> None:
    """With a 400 that names the field, and never with another exception."""
    refused = 0
    for _, endpoint, body in BODIES:
        with contextlib.suppress(BadRequest):
            call = parse_call(endpoint, body, request_id="r", tier=None)
            forwarded = orjson.loads(call.payload.for_model("m", "fast"))
            assert forwarded["model"] == "m"
            continue
        refused += 1
    assert 0 < refused < len(BODIES)


@pytest.mark.parametrize(
    "name", ["messages=2049", "tools=257", "n x prompts", "depth beyond JSON", "nan"]
)
def test_what_would_hurt_an_engine_reaches_none(name: str) -> None:
    """The gateway refuses it itself."""
    found = [(endpoint, body) for known, endpoint, body in BODIES if known == name]
    for endpoint, body in found:
        with pytest.raises(BadRequest):
            parse_call(Endpoint(endpoint), body, request_id="r", tier=None)
    assert found
