"""The bytes of all request bodies that a Router holds, while it reads them and while it answers.

The number of calls bounds no memory: a body may have megabytes, and a client that sends its body
slowly has no call yet.
"""

from __future__ import annotations

from serve_app.core.errors import TooManyCalls
from serve_app.pipeline import Pipeline

SMALL_BYTES = 16 * 1024
"""A body of this size is always read. HAProxy keeps it until it is complete."""


class HeldBodies:
    """The bodies of one Router."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self.held_bytes = 0

    @property
    def bytes_max(self) -> int:
        """The limit in effect."""
        return self._pipeline.runtime.limits.held_body_bytes_max


class BodyPlace:
    """One body; closing the block gives its bytes back."""

    __slots__ = ("_all", "_bytes")

    def __init__(self, bodies: HeldBodies) -> None:
        self._all = bodies
        self._bytes = 0

    def __enter__(self) -> BodyPlace:
        return self

    def __exit__(self, *_: object) -> None:
        self._all.held_bytes -= self._bytes
        self._bytes = 0

    def add(self, size: int) -> None:
        """So many bytes have come.

        Raises:
            TooManyCalls: the Router holds as many bytes as it may.
        """
        held_bytes = self._all.held_bytes + size
        if self._bytes + size > SMALL_BYTES and held_bytes > self._all.bytes_max:
            raise TooManyCalls(retry_after_s=1)
        self._bytes += size
        self._all.held_bytes = held_bytes
