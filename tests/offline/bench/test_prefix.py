"""The benchmark of what prefix keys cost a call."""

from __future__ import annotations

from serve_app.offline.bench.prefix import build_grid, measure


def test_every_step_is_timed() -> None:
    """The last row is the sum of the Router's steps."""
    measured = {4: measure(4000, 3, 10), 20: measure(20_000, 3, 10)}
    grid = build_grid(measured, 3)
    assert grid.header == ("step", "4 KB", "20 KB")
    assert [row[0] for row in grid.rows] == [*measured[4], "Router: all"]
