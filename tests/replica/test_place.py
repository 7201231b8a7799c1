"""Where a replica's own workers lie."""

from __future__ import annotations

import pytest

from serve_app.replica.place import count_torn_groups


@pytest.mark.parametrize(
    ("workers", "size", "torn"),
    [({"a": 8}, 8, 0), ({"a": 4, "b": 4}, 4, 0), ({"a": 6, "b": 2}, 4, 2), ({}, 4, 0)],
)
def test_torn_groups_are_found(workers: dict[str, int], size: int, torn: int) -> None:
    """Whole groups on every node, or somebody must know."""
    assert count_torn_groups(workers, size) == torn
