"""`serve-app bench access`: what it compares."""

from __future__ import annotations

from serve_app.offline.bench.access import measure_access


async def test_every_proof_is_timed() -> None:
    """Keys that are known, unknown and mistyped; tokens that are new and that were seen before."""
    rows = await measure_access(calls=20, keys=3, rounds=1)
    assert [name for name, _ in rows] == [
        "a known key",
        "an unknown key: 401",
        "a key with a typing slip: 401",
        "a new token, RS256",
        "a token that was seen before, RS256",
        "a new token, ES256",
        "a token that was seen before, ES256",
        "a new token, EdDSA",
        "a token that was seen before, EdDSA",
    ]
    assert all(float(us) >= 0 for _, us in rows)
