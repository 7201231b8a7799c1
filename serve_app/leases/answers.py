"""The headers that a replica's door adds to the engine's answer for the Router."""

from __future__ import annotations

from enum import Enum

from serve_app.core.call import Usage

LEASE_USAGE_HEADER = b"x-lease-usage"
"""On the answer that ends a lease: the tokens of its last exchange, if it was cut off.
"""


class Refusal(Enum):
    """Why the door rejects an exchange: the value of `LEASE_REFUSED_HEADER`."""

    LEASE = b"1"
    """The replica does not know the lease, or the request is not signed with its secret."""
    ENGINE = b"engine"
    """The engine behind the door is dead or hangs; Serve will replace the replica."""
    DRAINING = b"draining"
    """Serve drains the replica: exchanges that have begun continue, and no new exchange begins."""


def render_usage(usage: Usage) -> bytes:
    """The value of `LEASE_USAGE_HEADER`."""
    return b"%d %d" % (usage.prompt_tokens or 0, usage.completion_tokens or 0)


def parse_usage(value: bytes) -> Usage | None:
    """The usage in a header, None if the header holds no usage."""
    try:
        prompt_tokens, completion_tokens = map(int, value.split())
    except ValueError:
        return None
    return Usage(prompt_tokens, completion_tokens)
