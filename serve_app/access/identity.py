"""Who asks, as proved by a key or a token."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Identity:
    """What the proof of a request says. The roles are names; their meaning is not decided here.

    `key_id` names an API key and is no secret; None for a token. `expires_at` is the end of the
    proof in seconds since 1970, None if it has no end.
    """

    tenant: str
    key_id: str | None = None
    user: str | None = None
    roles: tuple[str, ...] = ()
    expires_at: float | None = None
