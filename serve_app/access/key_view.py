"""What may be shown of a key: everything but its hash."""

from __future__ import annotations

from datetime import UTC, datetime

from serve_app.access.stored_key import StoredKey


def describe_key(key: StoredKey, last_used_at: int | None, now: float) -> dict[str, object]:
    """The key for JSON; times are ISO 8601 in UTC."""
    return {
        "key_id": key.key_id,
        "tenant": key.tenant,
        "user": key.user,
        "roles": list(key.roles),
        "name": key.name,
        "state": str(key.state(now)),
        "created_at": render_time(key.created_at),
        "expires_at": render_time(key.expires_at),
        "rotated_at": render_time(key.rotated_at),
        "old_secret_until": render_time(key.old_until),
        "revoked_at": render_time(key.revoked_at),
        "last_used_at": render_time(last_used_at),
    }


def render_time(at: int | None) -> str | None:
    """Seconds since 1970 as a date and a time of day."""
    return None if at is None else f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%SZ}"
