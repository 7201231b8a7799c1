"""What a test looks at in each turn of a loop, of which there must be some."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

Item = TypeVar("Item")


def some(items: Iterable[Item]) -> list[Item]:
    """All of them; none is a failure, because a loop over nothing asserts nothing."""
    found = list(items)
    assert found, "nothing was found to look at"
    return found
