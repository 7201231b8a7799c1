"""Which replica would begin an answer first: the expected seconds until the first token.

The cost of a replica is the time in which it reads what is before the call and what of the call it
has not cached. There is no gate for the whole fleet, and cached tokens have no value of their own:
they count only as the seconds that they save on this replica.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

PREFILL_TOKENS_PER_S = 10_000.0
"""The rate of a replica that has read nothing yet."""
RUNNING_S = 0.0005
"""What a running call adds: its part of every step in which a prompt is read."""
NEAR_RATIO = 0.05
NEAR_S = 0.005
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


NO_LOAD = ReplicaLoad()


class Ranked(NamedTuple):
    """A replica, the expected seconds until the first token there, and the cached tokens."""

    cost_s: float
    replica: str
    cached_tokens: int


def expected_s(
    load: ReplicaLoad, prompt_tokens: int, cached_tokens: int, own_tokens: int = 0
) -> float:
    """The seconds until a replica gives the first token of a prompt.

    `own_tokens` are those that this Router has sent there and the report does not know yet.
    """
    saved = load.trust_ratio * min(cached_tokens, prompt_tokens)
    tokens = load.pending_tokens + own_tokens + prompt_tokens - saved
    return tokens / load.prefill_tokens_per_s + load.running * RUNNING_S


def rank(
    loads: Mapping[str, ReplicaLoad],
    cached: Mapping[str, int],
    own: Mapping[str, int],
    prompt_tokens: int,
    chance: random.Random,
) -> Sequence[Ranked]:
    """The replicas of `loads`, the cheapest first, nearly equal first ones in a random order."""
    ranked = []
    for name, load in loads.items():
        tokens = cached.get(name, 0)
        cost_s = expected_s(load, prompt_tokens, tokens, own.get(name, 0))
        ranked.append(Ranked(cost_s, name, tokens))
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
        """A call goes to a replica, which will read so many tokens of it."""
        choice = OwnChoice(now_s + self._unseen_s, replica, uncached_tokens)
        self._choices.append(choice)
        self._tokens[replica] = self._tokens.get(replica, 0) + uncached_tokens
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
