"""One call to a tier that no user waits for."""

from __future__ import annotations

import asyncio

from serve_app.config.runtime import DeadlinesConfig
from serve_app.leases.client import UpstreamRequest
from serve_app.leases.order import Claim
from serve_app.leases.tier import Tier

PLACE_S_MAX = 2.0
"""How long a label call waits for a place; a tier without a free place is not idle.

This is a deadline and not the request's patience: a call whose patience ends marks the tier as down
for users too.
"""
TOTAL_S_MAX = 60.0


CLAIM = Claim("feedback", 1.0, 1, batch=True)
"""Where clients' calls wait too, a label call comes after them (`fairness`)."""


class LabelRefused(Exception):
    """The engine refused the body, and would refuse it again."""


class AnswerTooLong(Exception):
    """The answer is larger than the bound on stored answers."""


async def ask(
    tier: Tier,
    path: str,
    body: bytes,
    request_id: str,
    deadlines: DeadlinesConfig,
    bytes_max: int,
) -> bytes:
    """The whole answer. Cancelling stops the engine.

    Raises:
        GatewayError: no answer came.
        LabelRefused: the engine answered with a 4xx.
        AnswerTooLong: the answer has more than `bytes_max` bytes.
    """
    request = UpstreamRequest(path, body, request_id, stream=False, claim=CLAIM)
    chunks: list[bytes] = []
    size = 0
    now = asyncio.get_running_loop().time()
    async with tier.exchange(request, shorten(deadlines).start(now)) as answer:
        while chunk := await answer.read():
            chunks.append(chunk)
            size += len(chunk)
            if size > bytes_max:
                raise AnswerTooLong
    if answer.status >= 400:
        raise LabelRefused
    return b"".join(chunks)


def shorten(deadlines: DeadlinesConfig) -> DeadlinesConfig:
    """The deadlines of a call that can be tried again later."""
    return deadlines.model_copy(
        update={
            "lease_s": min(deadlines.lease_s, PLACE_S_MAX),
            "total_s": min(deadlines.total_s, TOTAL_S_MAX),
        }
    )
