"""What `nodes.py` says of an answer: each has exactly one outcome."""

from __future__ import annotations

import pytest

from tests.faults.nodes import judge

pytestmark = pytest.mark.serve

EVENT = 'data: {"choices":[{"delta":{"content":"a"}}]}'
ERROR = 'data: {"error":{"code":"upstream_failed"}}'
DONE = "data: [DONE]"


@pytest.mark.parametrize(
    ("status", "lines", "told"),
    [
        (200, [EVENT, DONE], ("answered", "")),
        (200, [EVENT, ERROR, DONE], ("failed", "upstream_failed")),
        (200, [EVENT, ERROR], ("failed", "upstream_failed")),
        (200, [EVENT], ("silent", "")),
        (200, [], ("silent", "")),
        (503, ['{"error":{"code":"overloaded"}}'], ("refused", "503 overloaded")),
        (502, ['{"error":{"code":"upstream_failed"}}'], ("failed", "502 upstream_failed")),
        (504, ["<html>"], ("failed", "504 ")),
    ],
)
def test_an_answer_has_one_outcome(status: int, lines: list[str], told: tuple[str, str]) -> None:
    """A stream that ends early and says nothing is told from one that names its error."""
    assert judge(status, lines) == told
