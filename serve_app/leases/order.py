"""The order in which waiting calls get places: first come, first served, or fair among tenants.

Fair is start-time fair queueing (Goyal, Vin, Cheng: "Start-time Fair Queuing", SIGCOMM 1996) over
tokens. Each tenant with waiting calls has a start time in virtual time. The tenant with the
smallest start time is served, the virtual time moves there, and the tenant's start time grows by
the tokens of the call divided by the weight of the tenant. A start time belongs to a tenant and not
to each of its calls, so a call that leaves without a place costs its tenant nothing.

A tenant that has had less than its share may be ahead by `burst_tokens`, as in the scheduling by
borrowed virtual time (Duda, Cheriton, SOSP 1999): people send several calls at once, and without
the credit each of these calls would wait for a call of the tenant that floods.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, TypeVar

FINISHES_MAX = 4096
"""The tenants without waiting calls whose past service is remembered, before useless ones go."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a call weighs while it waits: its tenant's weight, and the tokens that it may cost.

    `batch` calls wait behind the others. `spare` calls shall add no replicas, so they wait for
    room first (`leases/spare_room.py`).
    """

    tenant: str
    weight: float
    tokens: int
    batch: bool = False
    spare: bool = False


NO_CLAIM = Claim("", 1.0, 1)
"""The claim of this service's own requests."""


class Waits(Protocol):
    """A call that waits."""

    claim: Claim


W = TypeVar("W", bound=Waits)


class WaitingOrder(Protocol[W]):
    """Decides which waiting call comes first."""

    def __len__(self) -> int: ...

    def add(self, waiter: W) -> None:
        """A call waits from now on."""
        ...

    def remove(self, waiter: W) -> None:
        """A call has left without a place. Unknown calls are ignored."""
        ...

    def serve(self, waiter: W) -> None:
        """A call has got a place."""
        ...

    @property
    def first(self) -> W | None:
        """The call that gets the next place."""
        ...

    @property
    def oldest(self) -> W | None:
        """The call that has waited for longest."""
        ...

    def head(self, calls_max: int) -> Sequence[W]:
        """The first call, and the calls that may take its place without harm to other tenants."""
        ...

    def victim(self, newest: W) -> W:
        """The call that fails if the tier refuses to let so many calls wait."""
        ...

    def ahead(self, claim: Claim) -> int:
        """About how many of the waiting calls would come before a new call."""
        ...

    def correct(self, claim: Claim, tokens: int) -> None:
        """A call that was served has cost so many tokens."""
        ...

    def drain(self) -> list[W]:
        """Remove all calls, in the order of their arrival."""
        ...


class ArrivalOrder(WaitingOrder[W]):
    """First come, first served."""

    def __init__(self) -> None:
        self._waiters: OrderedDict[W, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._waiters)

    def add(self, waiter: W) -> None:
        """A call waits from now on."""
        self._waiters[waiter] = None

    def remove(self, waiter: W) -> None:
        """A call has left without a place."""
        self._waiters.pop(waiter, None)

    serve = remove

    @property
    def first(self) -> W | None:
        """The call that has waited for longest."""
        return next(iter(self._waiters), None)

    oldest = first

    def head(self, calls_max: int) -> Sequence[W]:
        """The calls that have waited for longest."""
        return list(islice(self._waiters, calls_max))

    def victim(self, newest: W) -> W:
        """The newest call itself."""
        return newest

    def ahead(self, claim: Claim) -> int:
        """All calls that wait."""
        return len(self._waiters)

    def correct(self, claim: Claim, tokens: int) -> None:
        """Tokens do not count."""

    def drain(self) -> list[W]:
        """Remove all calls."""
        waiters = list(self._waiters)
        self._waiters.clear()
        return waiters


class _Line(OrderedDict[W, float]):
    """The waiting calls of one tenant in one class, with the time of their arrival."""

    start = 0.0
    tokens = 0

    def backlog(self, weight: float) -> float:
        """The virtual time at which the whole line would have been served."""
        return self.start + self.tokens / weight

    def served_by(self, virtual: float) -> int:
        """About how many of the calls are served by that virtual time."""
        weight = next(iter(self)).claim.weight
        part = (virtual - self.start) * weight / max(self.tokens, 1)
        return math.ceil(len(self) * min(max(part, 0.0), 1.0))


class FairOrder(WaitingOrder[W]):
    """Fair among tenants by tokens; interactive calls before batch calls, which age."""

    def __init__(
        self, clock: Callable[[], float], batch_wait_max_s: float, burst_tokens: int = 0
    ) -> None:
        """`clock` gives seconds, like the event loop's clock."""
        self._clock = clock
        self._burst_tokens = burst_tokens
        self._batch_wait_max_s = batch_wait_max_s
        self._interactive: dict[str, _Line[W]] = {}
        self._batch: dict[str, _Line[W]] = {}
        self._aging: OrderedDict[W, float] = OrderedDict()
        self._finish: dict[str, float] = {}
        self._virtual = 0.0

    def __len__(self) -> int:
        lines = (*self._interactive.values(), *self._batch.values())
        return sum(map(len, lines))

    def add(self, waiter: W) -> None:
        """A call waits from now on."""
        now = self._clock()
        if waiter.claim.batch:
            self._aging[waiter] = now
            self._join(self._batch, waiter, now)
        else:
            self._join(self._interactive, waiter, now)

    def remove(self, waiter: W) -> None:
        """A call has left without a place; its tenant pays nothing."""
        found = self._find(waiter)
        if found is not None:
            self._leave(*found, waiter)

    def serve(self, waiter: W) -> None:
        """A call has got a place; its tenant pays the tokens that the call may cost."""
        found = self._find(waiter)
        if found is None:
            return
        lines, line = found
        claim = waiter.claim
        self._virtual = max(self._virtual, line.start)
        line.start += claim.tokens / claim.weight
        self._leave(lines, line, waiter)

    @property
    def first(self) -> W | None:
        """The oldest call of the tenant whose turn it is."""
        return next(iter(self.head(1)), None)

    def head(self, calls_max: int) -> Sequence[W]:
        """The oldest calls of the tenant whose turn it is, all of one class."""
        self._age()
        lines = self._interactive or self._batch
        if not lines:
            return ()
        line = min(lines.values(), key=_turn)
        return list(islice(line, calls_max))

    @property
    def oldest(self) -> W | None:
        """The call that has waited for longest, of all tenants."""
        lines = (*self._interactive.values(), *self._batch.values())
        heads = [next(iter(line.items())) for line in lines]
        return min(heads, key=_arrival)[0] if heads else None

    def victim(self, newest: W) -> W:
        """The newest call of the tenant that would have to wait for longest, batch calls first."""
        lines = self._batch or self._interactive
        if not lines:
            return newest
        line = max(lines.values(), key=lambda line: line.backlog(next(iter(line)).claim.weight))
        return next(reversed(line))

    def ahead(self, claim: Claim) -> int:
        """The calls of its tenant, and those of other tenants whose turn would come first."""
        lines = self._batch if claim.batch else self._interactive
        line = lines.get(claim.tenant)
        if line is None:
            turn = max(self._earliest, self._finish.get(claim.tenant, 0.0))
        else:
            turn = line.backlog(claim.weight)
        others = sum(other.served_by(turn) for other in lines.values() if other is not line)
        first = sum(map(len, self._interactive.values())) if claim.batch else 0
        return first + others + (0 if line is None else len(line))

    def correct(self, claim: Claim, tokens: int) -> None:
        """A call has cost so many tokens, and not those of its claim."""
        more = (tokens - claim.tokens) / claim.weight
        line = self._interactive.get(claim.tenant) or self._batch.get(claim.tenant)
        if line is not None:
            line.start += more
        else:
            self._remember(claim.tenant, self._finish.get(claim.tenant, self._earliest) + more)

    def drain(self) -> list[W]:
        """Remove all calls, in the order of their arrival."""
        arrivals = [
            (arrived_at, waiter)
            for line in (*self._interactive.values(), *self._batch.values())
            for waiter, arrived_at in line.items()
        ]
        arrivals.sort(key=lambda arrival: arrival[0])
        for lines in (self._interactive, self._batch, self._aging, self._finish):
            lines.clear()
        return [waiter for _, waiter in arrivals]

    @property
    def _earliest(self) -> float:
        """The start time of a tenant that has had less than its share for long enough."""
        return self._virtual - self._burst_tokens

    def _join(self, lines: dict[str, _Line[W]], waiter: W, arrived_at: float) -> None:
        tenant = waiter.claim.tenant
        line = lines.get(tenant)
        if line is None:
            line = lines[tenant] = _Line()
            line.start = max(self._earliest, self._finish.get(tenant, 0.0))
        line[waiter] = arrived_at
        line.tokens += waiter.claim.tokens

    def _leave(self, lines: dict[str, _Line[W]], line: _Line[W], waiter: W) -> None:
        del line[waiter]
        line.tokens -= waiter.claim.tokens
        self._aging.pop(waiter, None)
        if not line:
            del lines[waiter.claim.tenant]
            self._remember(waiter.claim.tenant, line.start)

    def _find(self, waiter: W) -> tuple[dict[str, _Line[W]], _Line[W]] | None:
        for lines in (self._interactive, self._batch):
            line = lines.get(waiter.claim.tenant)
            if line is not None and waiter in line:
                return lines, line
        return None

    def _age(self) -> None:
        """Let batch calls that have waited for long enough count as interactive."""
        since = self._clock() - self._batch_wait_max_s
        while self._aging:
            waiter, arrived_at = next(iter(self._aging.items()))
            if arrived_at > since:
                return
            line = self._batch[waiter.claim.tenant]
            self._leave(self._batch, line, waiter)
            self._join(self._interactive, waiter, arrived_at)

    def _remember(self, tenant: str, finish: float) -> None:
        """The service that a tenant had; a tenant that the virtual time has passed is forgotten."""
        if finish <= self._earliest:
            self._finish.pop(tenant, None)
            return
        self._finish[tenant] = max(finish, self._finish.get(tenant, 0.0))
        if len(self._finish) > FINISHES_MAX:
            self._finish = {name: at for name, at in self._finish.items() if at > self._earliest}


def _turn(line: _Line[W]) -> tuple[float, float]:
    """Tenants whose turn comes at the same time are served in the order of arrival."""
    return line.start, next(iter(line.values()))


def _arrival(head: tuple[W, float]) -> float:
    return head[1]
