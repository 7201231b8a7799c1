"""What a Router knows about a tier's load at one moment."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TierLoad:
    """The load of one tier as one Router sees it.

    `waiting` and `ongoing` count this Router's own calls: calls that wait for a place, and calls
    that have a place. `first_token_s` estimates how long a call that arrives now waits for its
    first token. `replicas` counts the replicas whose engines have reported their load within the
    last seconds. `running` and `queued` are the sums of the calls that these engines reported, and
    `kv_free_ratio` is the mean of the free parts of their KV caches. None: no engine has reported.
    """

    down: bool = False
    waiting: int = 0
    ongoing: int = 0
    first_token_s: float | None = None
    replicas: int | None = None
    running: int | None = None
    queued: int | None = None
    kv_free_ratio: float | None = None
