"""Chunks that are passed on as they came: which bytes are whole chunks of whole events."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.chunks import are_whole_events

events = st.binary(max_size=40).map(lambda data: b"data: " + data + b"\n\n")


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@given(st.lists(events, min_size=1, max_size=5))
def test_whole_events_in_whole_chunks(bodies: list[bytes]) -> None:
    """Any number of them."""
    assert are_whole_events(b"".join(map(chunk, bodies)))


@given(st.lists(events, min_size=1, max_size=3), st.data())
def test_no_part_of_them(bodies: list[bytes], data: st.DataObject) -> None:
    """A cut is whole only where a chunk ends."""
    whole = b"".join(map(chunk, bodies))
    ends = [len(b"".join(map(chunk, bodies[:count]))) for count in range(1, len(bodies) + 1)]
    cut = data.draw(st.integers(0, len(whole)))
    assert are_whole_events(whole[:cut]) == (cut in ends)


@pytest.mark.parametrize(
    "data",
    [
        b"0\r\n\r\n",
        chunk(b"a\n\n") + b"0\r\n\r\n",
        chunk(b"half an event\n"),
        chunk(b"half an event") + chunk(b"\n\n"),
        b"3;name=value\r\na\n\n\r\n",
        b"03\r\na\n\n\r\n",
        b"0x3\r\na\n\n\r\n",
        b"+3\r\na\n\n\r\n",
        b"A\r\n12345678\n\n\r\n",
        b"3\na\n\n\r\n",
        b"fffffffff\r\na\n\n\r\n",
        b"",
    ],
)
def test_what_must_be_parsed(data: bytes) -> None:
    """The last chunk, half an event, and framing that a client might read otherwise."""
    assert not are_whole_events(data)
