"""Which replica would begin an answer first: the expected seconds until the first token.

The cost of a replica is the time in which it reads what is before the call and what of the call it
has not cached. The latter counts several times, because the calls that come after it wait for it
too, while the work before the call is there whichever replica is chosen. It counts the more, the
longer even the least busy replica would let the call wait: then many calls will come after it.
There is no gate for the whole fleet, and cached tokens have no value beyond the seconds that they
save.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

PREFILL_TOKENS_PER_S = 10_000.0
"""The rate of a replica that has read nothing yet."""
READ_WEIGHT = 3.0
"""How many times the reading of a prompt counts while a replica is free. In the simulation of
`serve-app bench prefix-trace`, with 1 replicas read more, with 6 calls wait for warm replicas."""
BUSY_WEIGHT_PER_S = 10.0
"""How many times more it counts for each second of work on the least busy replica."""
RUNNING_S = 0.0005
"""What a running call adds: its part of every step in which a prompt is read."""
NEAR_RATIO = 0.1
NEAR_S = 0.02
"""Costs that differ by less, in proportion or in seconds, are equal; among these chance decides."""
UNSEEN_S = 0.15
"""The age up to which a Router's own choices are not in the replica's reports yet."""


@dataclass(frozen=True, slots=True)
class ReplicaLoad:
    """What a replica reports of its work.

    `pending_tokens` are the tokens of all prompts that wait or are being read, from all Routers,
    without the cached ones. `trust_ratio` is the part of the promised tokens that were cached.
    """

    pending_tokens: int = 0
    prefill_tokens_per_s: float = PREFILL_TOKENS_PER_S
    running: int = 0
    queued: int = 0
    kv_used_ratio: float | None = None
    trust_ratio: float = 1.0

    @property
    def measured(self) -> bool:
        """Whether the rate is measured; a replica that has read nothing reports the default."""
        return self.prefill_tokens_per_s != PREFILL_TOKENS_PER_S


NO_LOAD = ReplicaLoad()


class Ranked(NamedTuple):
    """A replica, the seconds that the call costs there by the rule above, and the cached tokens.

    `read_s` is how long it reads the call, `first_token_s` how long the first token takes.
    """

    cost_s: float
    replica: str
    cached_tokens: int
    read_s: float
    first_token_s: float


def expected_s(
    load: ReplicaLoad, prompt_tokens: int, cached_tokens: int, own_tokens: int = 0
) -> float:
    """The seconds until a replica gives the first token of a prompt.

    `own_tokens` are those that this Router has sent there and the report does not know yet.
    """
    return wait_s(load, own_tokens) + read_s(load, prompt_tokens, cached_tokens)


def wait_s(load: ReplicaLoad, own_tokens: int = 0) -> float:
    """The seconds in which a replica reads what comes before the call."""
    before_s = (load.pending_tokens + own_tokens) / load.prefill_tokens_per_s
    return before_s + load.running * RUNNING_S


def read_s(load: ReplicaLoad, prompt_tokens: int, cached_tokens: int) -> float:
    """The seconds in which a replica reads what it has not cached of a prompt."""
    saved = load.trust_ratio * min(cached_tokens, prompt_tokens)
    return (prompt_tokens - saved) / load.prefill_tokens_per_s


def rank(
    loads: Mapping[str, ReplicaLoad],
    cached: Mapping[str, int],
    own: Mapping[str, int],
    prompt_tokens: int,
    chance: random.Random,
) -> Sequence[Ranked]:
    """The replicas of `loads`, the cheapest first, nearly equal first ones in a random order."""
    waits = {name: wait_s(load, own.get(name, 0)) for name, load in loads.items()}
    weight = READ_WEIGHT + BUSY_WEIGHT_PER_S * min(waits.values(), default=0.0)
    ranked = []
    for name, load in loads.items():
        tokens = cached.get(name, 0)
        needs_s = read_s(load, prompt_tokens, tokens)
        cost_s = waits[name] + weight * needs_s
        ranked.append(Ranked(cost_s, name, tokens, needs_s, waits[name] + needs_s))
    ranked.sort()
    _mix(ranked, chance)
    return ranked


def _mix(ranked: list[Ranked], chance: random.Random) -> None:
    """Put one of the nearly equal first replicas first."""
    if not ranked:
        return
    most_s = ranked[0].cost_s * (1 + NEAR_RATIO) + NEAR_S
    near = 0
    while near < len(ranked) and ranked[near].cost_s <= most_s:
        near += 1
    chosen = chance.randrange(near)
    ranked[0], ranked[chosen] = ranked[chosen], ranked[0]


@dataclass(slots=True)
class OwnChoice:
    """A call that has been sent to a replica; `tokens` of it are to be read there."""

    until_s: float
    replica: str
    tokens: int


class OwnChoices:
    """The tokens that a Router has sent to replicas too lately to be in their reports."""

    def __init__(self, unseen_s: float = UNSEEN_S) -> None:
        self._unseen_s = unseen_s
        self._choices: deque[OwnChoice] = deque()
        self._tokens: dict[str, int] = {}

    def note(self, replica: str, uncached_tokens: int, now_s: float) -> OwnChoice:
        """A call goes to a replica, which will read so many tokens of it.

        A prompt that is estimated shorter than its cached beginning has nothing to read.
        """
        tokens = max(0, uncached_tokens)
        choice = OwnChoice(now_s + self._unseen_s, replica, tokens)
        if not tokens:
            return choice
        self._choices.append(choice)
        self._tokens[replica] = self._tokens.get(replica, 0) + tokens
        return choice

    def end(self, choice: OwnChoice) -> None:
        """The call has been read, or has ended: nothing of it waits any more."""
        if not choice.tokens:
            return
        left = self._tokens[choice.replica] - choice.tokens
        choice.tokens = 0
        if left:
            self._tokens[choice.replica] = left
        else:
            del self._tokens[choice.replica]

    def tokens(self, now_s: float) -> Mapping[str, int]:
        """The tokens by replica."""
        while self._choices and self._choices[0].until_s <= now_s:
            self.end(self._choices.popleft())
        return self._tokens
