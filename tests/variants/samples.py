"""Trials and calls that the tests of variants share."""

from __future__ import annotations

import random
from typing import Any

from serve_app.config.variants import TierVariantsConfig
from serve_app.core.deadlines import Deadlines
from serve_app.leases.client import UpstreamRequest
from serve_app.variants.trial import Trial


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def make_trial(clock: Clock | None = None, seed: int = 1, **config: Any) -> Trial:
    """A trial of `next` at 10 % of the tier fast."""
    asked = TierVariantsConfig(**{"shares": {"next": 0.1}, **config})
    return Trial("fast", asked, clock or Clock(), random.Random(seed))


def make_request(number: int = 0, *, stream: bool = True, **options: Any) -> UpstreamRequest:
    return UpstreamRequest(
        "/v1/chat/completions", b"{}", f"call-{number}", stream=stream, **options
    )


def make_deadlines(now: float = 0.0) -> Deadlines:
    return Deadlines(now, place_s=5, first_byte_s=5, gap_s=5, total_s=5)
