"""The replica that served a conversation last, which has its beginning in the prefix cache."""

from __future__ import annotations

from collections import OrderedDict

from serve_app.leases.http1 import Address

SESSIONS_MAX = 10_000


class SessionMap:
    """The newest sessions of one Router on one tier, each for a limited time."""

    def __init__(self, kept_s: float, sessions_max: int = SESSIONS_MAX) -> None:
        self.kept_s = kept_s
        self._max = sessions_max
        self._places: OrderedDict[str, tuple[Address, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._places)

    def note(self, session: str, address: Address, now: float) -> None:
        """A call of the session has gone to this replica."""
        if self.kept_s <= 0:
            return
        self._places[session] = (address, now)
        self._places.move_to_end(session)
        oldest = next(iter(self._places))
        if len(self._places) > self._max or now - self._places[oldest][1] > self.kept_s:
            del self._places[oldest]

    def find(self, session: str, now: float) -> Address | None:
        """The replica of the session's last call, None if that is unknown or long ago."""
        found = self._places.get(session)
        return found[0] if found is not None and now - found[1] <= self.kept_s else None
