"""The headers by which an answer tells a caller the state of its limits, in both dialects.

OpenAI gives the time until a limit is whole again as a duration (`1s`, `6m0s`), Anthropic gives the
time of day (RFC 3339).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from serve_app.core.headers import Headers
from serve_app.limits.limit import LimitAsk, Measure, Standing
from serve_app.limits.windows import SECOND_MS

SHOWN = (Measure.REQUESTS, Measure.TOKENS)


def render_limits(
    asks: Sequence[LimitAsk], standings: Sequence[Standing], *, anthropic: bool, now_ms: int
) -> Headers:
    """The headers for the tightest limit of requests and the tightest limit of tokens."""
    rows = list(zip(asks, standings, strict=True))
    headers: Headers = []
    for measure in SHOWN:
        shown = [row for row in rows if row[0].limit.measure is measure]
        if shown:
            ask, standing = min(shown, key=_free_ratio)
            render = _anthropic if anthropic else _openai
            headers += render(measure.value, ask.limit.amount, standing, now_ms)
    return headers


def render_duration(ms: int) -> str:
    """A time as OpenAI writes it: `250ms`, `1s`, `6m0s`, `3h2m1s`."""
    if ms < SECOND_MS:
        return f"{max(0, ms)}ms"
    minutes, seconds = divmod(math.ceil(ms / SECOND_MS), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [(hours, "h")] if hours else []
    parts += [(minutes, "m")] if hours or minutes else []
    return "".join(f"{number}{unit}" for number, unit in [*parts, (seconds, "s")])


def remaining(amount: int, standing: Standing) -> int:
    """What is left of a limit."""
    return max(0, amount - standing.used)


def _free_ratio(row: tuple[LimitAsk, Standing]) -> float:
    amount = row[0].limit.amount
    return remaining(amount, row[1]) / amount if amount else 0.0


def _openai(
    name: str, amount: int, standing: Standing, now_ms: int
) -> Iterator[tuple[bytes, bytes]]:
    yield b"x-ratelimit-limit-" + name.encode(), b"%d" % amount
    yield b"x-ratelimit-remaining-" + name.encode(), b"%d" % remaining(amount, standing)
    yield b"x-ratelimit-reset-" + name.encode(), render_duration(standing.reset_ms).encode()


def _anthropic(
    name: str, amount: int, standing: Standing, now_ms: int
) -> Iterator[tuple[bytes, bytes]]:
    prefix = b"anthropic-ratelimit-" + name.encode()
    reset = datetime.fromtimestamp(math.ceil((now_ms + standing.reset_ms) / SECOND_MS), UTC)
    yield prefix + b"-limit", b"%d" % amount
    yield prefix + b"-remaining", b"%d" % remaining(amount, standing)
    yield prefix + b"-reset", reset.strftime("%Y-%m-%dT%H:%M:%SZ").encode()
