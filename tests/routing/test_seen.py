"""The memory of texts that come again."""

from __future__ import annotations

from serve_app.routing.seen import Seen


def test_a_result_is_made_once() -> None:
    """The second time it is remembered, for exactly the same texts."""
    seen, made = Seen[list[str]](10), []
    for texts in (("a", "b"), ("a", "b"), ("ab", "")):
        seen.recall(texts, lambda texts=texts: made.append(texts) or ["result"])  # type: ignore[misc]
    assert made == [("a", "b"), ("ab", "")]


def test_the_result_seen_longest_ago_is_forgotten() -> None:
    """The memory is bounded, and a result that is used again stays."""
    seen, made = Seen[list[str]](2), []
    for text in ("a", "b", "a", "c", "a", "b"):
        seen.recall((text,), lambda text=text: made.append(text) or ["result"])  # type: ignore[misc]
    assert made == ["a", "b", "c", "b"]
    assert len(seen) == 2


def test_no_text_is_kept() -> None:
    """Only hashes: what a client wrote is not found in the memory of the process."""
    seen = Seen[int](2)
    seen.recall(("a secret",), lambda: 1)
    assert "a secret" not in repr(vars(seen))
