"""HTTP/1.1 chunks (RFC 9112, section 7.1) that can be passed on as they came, framing included."""

from __future__ import annotations

import re
from collections.abc import Callable

Take = Callable[[bytes], bool]
"""Takes whole chunks as `are_whole_events` knows them, or leaves them alone and returns False."""

HEAD = re.compile(rb"([1-9a-f][0-9a-f]{0,6})\r\n")
"""The head of a chunk as uvicorn writes it: no extension, no leading zeros, not the last chunk."""

EVENT_END = b"\n\n\r\n"
"""The end of a server-sent event, and of the chunk that holds the event."""


def are_whole_events(data: bytes) -> bool:
    """Whether the bytes are whole chunks, each of which ends with a server-sent event.

    False where the bytes hold the last chunk, half a chunk or half an event, or where a server has
    framed them in another way.
    """
    start, end = 0, len(data)
    while start < end:
        head = HEAD.match(data, start)
        if head is None:
            return False
        start = head.end() + int(head[1], 16) + 2
        if data[start - 4 : start] != EVENT_END:
            return False
    return start == end > 0
