"""Where the replicas of a tier tell their state, as Ray's request router hears of it.

Ray makes the request router by itself, from a class that the tier's deployment names. So what it
knows is handed over by a table of this process. It may run in a thread of its own: it hands over
immutable values, and each is replaced in one step.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from serve_app.leases.http1 import Address

METADATA_KEY = "serve_app_state"
"""The key of a replica's metadata (`record_replica_metadata`) that holds its seat."""

_TOKEN = re.compile(r"[0-9a-f]{32}")
_DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True)
class Seat:
    """The port of a replica, and the token that opens its state stream."""

    address: Address
    token: str


def render_seat(seat: Seat) -> dict[str, Any]:
    """A replica's metadata, which Ray carries as JSON to the processes that call the replica."""
    host, port, *pin = seat.address
    return {METADATA_KEY: [host, port, pin[0].hex() if pin else "", seat.token]}


def parse_seat(metadata: Mapping[str, Any]) -> Seat | None:
    """The seat in a replica's metadata, None if there is none that can be used."""
    try:
        host, port, pin, token = metadata[METADATA_KEY]
        digest = bytes.fromhex(pin)
    except (KeyError, TypeError, ValueError):
        return None
    if not (isinstance(host, str) and isinstance(port, int) and _TOKEN.fullmatch(token)):
        return None
    if not digest:
        return Seat((host, port), token)
    return Seat((host, port, digest), token) if len(digest) == _DIGEST_BYTES else None


class ReplicaBoard:
    """The seats of one deployment's replicas by Ray's ids of them."""

    def __init__(self) -> None:
        self.seats: Mapping[str, Seat] = {}
        self._listener: Callable[[], None] | None = None

    def publish(self, seats: Mapping[str, Seat]) -> None:
        """Ray sends calls to these replicas now; called in any thread."""
        self.seats = seats
        if self._listener is not None:
            self._listener()

    def listen(self, listener: Callable[[], None] | None) -> None:
        """Call this after each change, in the thread of the change."""
        self._listener = listener


_BOARDS: dict[str, ReplicaBoard] = {}
"""By the names of deployments. A process has the handles of one application."""


def find_board(deployment: str) -> ReplicaBoard:
    """The board of a deployment in this process."""
    return _BOARDS.setdefault(deployment, ReplicaBoard())
