"""The deadlines of a call: absolute times, computed once when the call arrives."""

from __future__ import annotations

from serve_app.core.errors import DeadlineExceeded, GatewayError, TierOverloaded

FULL_RETRY_AFTER_S = 5
"""The `Retry-After` that a client gets when a tier stayed full."""


class Deadlines:
    """The deadlines of one call on all the tiers and replicas that it is tried on.

    Times are seconds of the event loop's clock. The time for a place on a replica is a budget, not
    a moment: a call that loses its replica late can still wait for as long as it has not yet
    waited.
    """

    __slots__ = (
        "_arrived_at",
        "_first_byte_at",
        "_place_left_s",
        "first_byte_s",
        "first_token_at",
        "gap_s",
        "total_at",
        "total_s",
    )

    def __init__(
        self,
        arrived_at: float,
        *,
        place_s: float,
        first_byte_s: float,
        gap_s: float,
        total_s: float,
        first_token_s: float | None = None,
    ) -> None:
        self._arrived_at = arrived_at
        self._place_left_s = place_s
        self.first_token_at = None if first_token_s is None else arrived_at + first_token_s
        """The time by which the answer must begin, as far as that can be foreseen; None: no limit.
        """
        self._first_byte_at = arrived_at + first_byte_s
        self.first_byte_s = first_byte_s
        self.gap_s = gap_s
        self.total_s = total_s
        self.total_at = arrived_at + total_s

    def ask_first_token(self, seconds: float) -> None:
        """Take the client's own deadline, which cannot be later than the config's."""
        allowed_at = self._first_byte_at if self.first_token_at is None else self.first_token_at
        self.first_token_at = min(allowed_at, self._arrived_at + seconds)

    def forgo_first_token(self) -> None:
        """Let the answer begin as late as it may: nobody watches it."""
        self.first_token_at = None

    def head_at(self, *, stream: bool) -> float:
        """The time by which the answer's head must have come.

        The head of an answer in one piece comes with the answer's last byte.
        """
        return min(self._first_byte_at, self.total_at) if stream else self.total_at

    def check(self, now: float, *, stream: bool) -> None:
        """Raise DeadlineExceeded if the answer's head would come too late from any replica."""
        if now >= self.head_at(stream=stream):
            raise self.missed(stream=stream)

    def place_at(self, now: float, *, stream: bool) -> float:
        """The time until which a call may wait for a place if its wait begins now."""
        return min(now + self._place_left_s, self.head_at(stream=stream))

    def spend_on_place(self, waited_s: float) -> None:
        """Subtract the time that the call has waited for a place from its budget."""
        self._place_left_s = max(0.0, self._place_left_s - waited_s)

    def no_place(self, now: float, *, stream: bool) -> GatewayError:
        """The error of a call that has waited for a place until `place_at`."""
        if now < self.head_at(stream=stream):
            return TierOverloaded(retry_after_s=FULL_RETRY_AFTER_S)
        return self.missed(stream=stream)

    def missed(self, *, stream: bool) -> DeadlineExceeded:
        """The error of a call whose head has not come by `head_at`."""
        if stream and self._first_byte_at < self.total_at:
            return DeadlineExceeded("first byte", self.first_byte_s)
        return DeadlineExceeded("total", self.total_s)
