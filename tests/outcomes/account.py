"""All calls of one trial: every call that began has exactly one outcome, and none a wrong one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from tests.outcomes.outcome import FAILED, WRONG, Outcome, Seen, judge


@dataclass(frozen=True)
class Account:
    """The calls that began, what was seen of them, and when the fault struck."""

    begun: Collection[int]
    seen: Collection[Seen]
    fault_s: float = 0.0

    @property
    def outcomes(self) -> Counter[Outcome]:
        """How many calls had each outcome; a call of which nothing was seen is lost."""
        counted = Counter(judge(each) for each in self.seen)
        counted[Outcome.LOST] += len(set(self.begun) - {each.number for each in self.seen})
        return +counted

    @property
    def in_flight(self) -> int:
        """Calls that were under way when the fault struck."""
        return sum(each.started_s <= self.fault_s <= each.ended_s for each in self.seen)

    @property
    def failing_s(self) -> float:
        """From the fault to the end of the last `auto` call that was refused or failed, or 0.

        Calls that name a tier wait for it; how long is the time until all is whole.
        """
        auto = [each for each in self.seen if each.model == "auto"]
        ends = [each.ended_s for each in auto if judge(each) in FAILED | {Outcome.REFUSED}]
        return max((end - self.fault_s for end in ends), default=0.0)

    @property
    def longest_s(self) -> float:
        """The longest time of an answered `auto` call: calls may be held while a part is away."""
        answered = [each for each in self.seen if judge(each) is Outcome.ANSWERED]
        times = [each.ended_s - each.started_s for each in answered if each.model == "auto"]
        return max(times, default=0.0)

    def unanswered(self) -> list[str]:
        """The calls that were refused or failed, one a line: when, and what their clients saw."""
        bad = FAILED | WRONG | {Outcome.REFUSED}
        return [
            f"{outcome}: {each.model} to {each.tier}, {each.started_s - self.fault_s:.2f} to"
            f" {each.ended_s - self.fault_s:.2f} s, {each.status} {each.error} {each.body[-300:]!r}"
            for each in self.seen
            if (outcome := judge(each)) in bad
        ]

    def wrong(self) -> list[str]:
        """What must never be, in words; empty if the account is square."""
        twice = _repeated(each.number for each in self.seen)
        strangers = {each.number for each in self.seen} - set(self.begun)
        return [
            *(f"call {number} has two outcomes" for number in twice),
            *(f"call {number} never began" for number in sorted(strangers)),
            *(f"{count} {outcome}" for outcome, count in self.outcomes.items() if outcome in WRONG),
        ]


def _repeated(numbers: Iterable[int]) -> list[int]:
    return sorted(number for number, count in Counter(numbers).items() if count > 1)


@dataclass(frozen=True)
class Holdings:
    """What a service holds: before a fault, and when everything is whole and idle again."""

    ongoing: int = 0
    """Calls and leases that Ray counts."""
    generating: int = 0
    """Requests that the engines hold."""
    processes: Counter[str] = field(default_factory=Counter)
    """The processes by their kind."""
    descriptors: int = 0
    """Open files and sockets of the Routers and replicas, a process of each on average."""
    shared_files: frozenset[str] = frozenset()
    """Files of /dev/shm that no process has open or mapped."""


DESCRIPTORS_SPARE = 16
"""Idle connections come and go with the calls."""


def leaked(before: Holdings, after: Holdings) -> list[str]:
    """What an idle service holds beyond what it held before, in words; not its files."""
    more = after.processes - before.processes
    descriptors = after.descriptors - before.descriptors
    return [
        *([f"{after.ongoing} ongoing calls or leases"] if after.ongoing else []),
        *([f"{after.generating} requests in engines"] if after.generating else []),
        *(f"{count} more of {kind}" for kind, count in sorted(more.items())),
        *([f"{descriptors} more descriptors"] if descriptors > DESCRIPTORS_SPARE else []),
    ]


def left_files(before: Holdings, after: Holdings) -> list[str]:
    """Files of /dev/shm that nothing uses any more, and that were not there before."""
    return sorted(after.shared_files - before.shared_files)
