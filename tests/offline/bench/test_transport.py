"""`serve-app bench transport`: both kinds of server are really asked."""

from __future__ import annotations

import asyncio

from serve_app.offline.bench.transport import KINDS, build_grid, measure, serving


def test_both_kinds_are_measured() -> None:
    """Each has a cost, and the grid compares them."""
    with serving("plain") as plain, serving("tls") as tls:
        assert (len(plain[0]), len(tls[0])) == (2, 3)
        servers = dict(zip(KINDS, (plain, tls), strict=True))
        body = b'{"stream":true,"max_tokens":3}'
        measured = asyncio.run(measure(servers, body, 120, 1))
    grid = build_grid("title", measured)
    assert len(grid.rows) == 5
    assert all(len(costs.durations_ms) == 120 for costs in measured.values())
    assert all(min(costs.connects_ms) > 0 for costs in measured.values())
