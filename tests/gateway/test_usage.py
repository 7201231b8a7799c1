"""Usage is read off the bytes as they pass, whatever their pieces."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.call import Usage
from serve_app.gateway.usage import UsageTap, read_usage

DELTA = b'data: {"id":"x","choices":[{"delta":{"content":"\\"usage\\":{"}}],"usage":null}\n\n'
USAGE = (
    b'data: {"id":"x","choices":[],"usage":{"prompt_tokens":7,"total_tokens":12,'
    b'"completion_tokens":5}}\n\n'
)
DONE = b"data: [DONE]\n\n"
STREAM = DELTA * 3 + USAGE + DONE


def feed_all(tap: UsageTap, pieces: list[bytes]) -> bytes:
    return b"".join(tap.feed(piece) for piece in pieces) + tap.flush()


@given(st.lists(st.integers(0, len(STREAM)), max_size=12), st.booleans())
def test_any_split_gives_the_same_bytes_and_counts(cuts: list[int], hide: bool) -> None:
    """However TCP cuts the stream, counts are right and only our own usage event is hidden."""
    edges = [0, *sorted(cuts), len(STREAM)]
    pieces = [STREAM[a:b] for a, b in itertools.pairwise(edges)]
    tap = UsageTap(Usage(), hide=hide)
    expected = STREAM.replace(USAGE, b"") if hide else STREAM
    assert feed_all(tap, pieces) == expected
    assert (tap.usage.prompt_tokens, tap.usage.completion_tokens) == (7, 5)


def test_whole_events_are_not_held_back() -> None:
    """An event that is complete leaves at once."""
    assert UsageTap(Usage(), hide=True).feed(DELTA) == DELTA


def test_an_unfinished_last_event_is_not_lost() -> None:
    """What an engine leaves unterminated still reaches the client."""
    assert feed_all(UsageTap(Usage(), hide=False), [b"data: half"]) == b"data: half"


@pytest.mark.parametrize(
    ("body", "prompt", "completion"),
    [
        (b'{"usage":{"prompt_tokens":3,"completion_tokens":4}}', 3, 4),
        (b'{"usage":{"input_tokens":3,"input_tokens_details":{"x":1},"output_tokens":4}}', 3, 4),
        (b'{"usage":{"prompt_tokens":9,"total_tokens":9}}', 9, None),
        (b'{"choices":[{"text":"\\"usage\\":{\\"prompt_tokens\\":1}"}]}', None, None),
        (b"{}", None, None),
    ],
)
def test_read_usage(body: bytes, prompt: int | None, completion: int | None) -> None:
    """All dialects' counts are found, and text that imitates them is not."""
    usage = Usage()
    read_usage(body, usage)
    assert (usage.prompt_tokens, usage.completion_tokens) == (prompt, completion)
