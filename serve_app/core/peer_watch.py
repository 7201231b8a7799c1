"""How soon the two ends of a connection notice that the other machine is gone.

A machine that loses its power or its network closes no connection. Without these options a Router
would wait for the rest of a stream for `deadlines.gap_s`, and for an answer in one piece for
`deadlines.total_s`. Probes are answered by the other machine's kernel, not by the process: a slow
engine is not taken for a dead one.
"""

from __future__ import annotations

import socket
from typing import Protocol

SILENT_S_MAX = 15
"""A connection whose server acknowledges nothing for so long is broken. A shorter disturbance of
the network costs no call. The kernel treats a server that does not read a request for so long
alike, so the time is longer than any pause of a server's event loop."""

UNREAD_S_MAX = 360
"""The same for the server's end, whose client may be slow on purpose: the Router reads no faster
than its own client, which HAProxy disconnects after 300 s in which it reads nothing."""

PROBE_S = 5
"""How long a connection is silent before its first probe, and the time between probes."""


class HasOptions(Protocol):
    """A socket, or what an event loop shows of one."""

    def setsockopt(self, level: int, option: int, value: int, /) -> None:
        """Set an option."""
        ...


def watch_peer(connection: HasOptions, silent_s_max: int) -> None:
    """Let the kernel break this connection, or each that a listening socket accepts."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, PROBE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, PROBE_S)
    # Bounds the wait for acknowledgements of bytes and of probes: TCP_KEEPCNT has no effect.
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * silent_s_max)
