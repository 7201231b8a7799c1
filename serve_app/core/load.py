"""What a Router knows of a tier's load at one moment."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TierLoad:
    """The load of one tier as one Router sees it.

    `waiting` and `ongoing` are this Router's own calls: those that wait for a place, and those that
    have one. `first_token_s` estimates how long a call that comes now waits for its first token.
    `running` and `queued` are sums over the calls of the `replicas` whose engines have told their
    load lately, `kv_free_ratio` is the mean of the free parts of their KV caches. None: no engine
    has.
    """

    down: bool = False
    waiting: int = 0
    ongoing: int = 0
    first_token_s: float | None = None
    replicas: int | None = None
    running: int | None = None
    queued: int | None = None
    kv_free_ratio: float | None = None
