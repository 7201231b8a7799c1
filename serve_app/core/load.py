"""What a Router knows about a tier's load at one moment."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class BreakerState(StrEnum):
    """The state of a circuit breaker (`leases/breaker.py`); a closed set, so that it can label
    metrics."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class TierLoad:
    """The load of one tier as one Router sees it.

    `waiting` and `ongoing` count this Router's own calls: calls that wait for a place, and calls
    that have a place. `first_token_s` estimates how long a call that arrives now waits for its
    first token. `replicas` counts the replicas whose engines have reported their load within the
    last seconds. `running` and `queued` are the sums of the calls that these engines reported, and
    `kv_free_ratio` is the mean of the free parts of their KV caches. None: no engine has reported.
    `breaker` is the state of the tier's circuit breaker, `avoided` counts the replicas whose own
    breakers are not closed. `oldest_wait_s` is the age of the oldest call that waits for a place.
    """

    down: bool = False
    waiting: int = 0
    ongoing: int = 0
    first_token_s: float | None = None
    replicas: int | None = None
    running: int | None = None
    queued: int | None = None
    kv_free_ratio: float | None = None
    breaker: BreakerState = BreakerState.CLOSED
    avoided: int = 0
    oldest_wait_s: float = 0.0
