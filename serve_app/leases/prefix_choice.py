"""Chooses the replica of a call by what each has cached of its prompt, and by how busy each is."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from serve_app.core.prefix import NO_KEYS, PrefixKeys
from serve_app.core.residence import NOWHERE, Residence
from serve_app.leases.board import ReplicaBoard
from serve_app.leases.http1 import Address
from serve_app.leases.prefix_cost import (
    OwnChoice,
    OwnChoices,
    Ranked,
    ReplicaLoad,
    rank,
    read_s,
)
from serve_app.leases.ranking import Ranking
from serve_app.leases.replica_states import ReplicaStates


@dataclass(frozen=True, slots=True)
class Prefix:
    """The beginning of a prompt: `read` gives its keys, whatever model answers."""

    read: Callable[[], PrefixKeys]
    model: str
    prompt_tokens: int

    def keys(self) -> PrefixKeys:
        """The keys of the prompt before this model."""
        return self.read().for_model(self.model)


@dataclass(frozen=True, slots=True)
class PrefixPlan:
    """Which replica would be good for a call, and why.

    `first_token_s` is the least time to the first token that a replica with a fresh stream
    promises. None: no stream is fresh, or a replica has not measured how fast it reads.
    """

    ranking: Ranking
    keys: PrefixKeys
    prompt_tokens: int
    cached_tokens: dict[str, int]
    first_token_s: float | None = None


class PrefixChoice:
    """The choices of one Router on one tier."""

    def __init__(
        self,
        board: ReplicaBoard,
        state: ReplicaStates,
        in_use_at: Callable[[Address], int],
        avoided: Callable[[Address], bool],
        chance: random.Random | None = None,
    ) -> None:
        """`in_use_at` counts this Router's calls on a replica; `avoided` says whether a replica has
        failed calls lately."""
        self._board, self._state = board, state
        self._in_use_at, self._avoided = in_use_at, avoided
        self._chance = chance or random.Random()  # no secret
        self._own = OwnChoices()
        self.predicted_tokens = self.prompt_tokens = 0
        """Of all calls together: the tokens that were expected to be cached, and all tokens."""

    def plan(self, keys: PrefixKeys, prompt_tokens: int, now: float) -> PrefixPlan:
        """Rank the replicas for a call."""
        loads, addresses = {}, {}
        for name, seat in self._board.seats.items():
            if self._avoided(seat.address):
                continue
            addresses[name] = seat.address
            # A replica whose stream is lost: nothing is cached, and only own calls are known.
            loads[name] = self._state.loads.get(name) or ReplicaLoad(
                running=self._in_use_at(seat.address)
            )
        cached = self._state.index.match(keys, now) if keys is not NO_KEYS else {}
        ranked = rank(loads, cached, self._own.tokens(now), prompt_tokens, self._chance)
        ranking = Ranking(
            tuple([each.replica for each in ranked]),
            {addresses[each.replica]: each.cost_s for each in ranked},
            ranked[0].cost_s if ranked else 0.0,
            {addresses[each.replica]: each.read_s for each in ranked},
            sum([each.read_s for each in ranked]) / max(1, len(ranked)),
        )
        first_token_s = self._least_s(ranked)
        return PrefixPlan(ranking, keys, prompt_tokens, dict(cached), first_token_s)

    def _least_s(self, ranked: Sequence[Ranked]) -> float | None:
        """The least time to a first token, None where a guess would decide."""
        told = self._state.loads
        fresh = [each for each in ranked if each.replica in told]
        if not all(told[each.replica].measured for each in fresh):
            return None
        return min([each.first_token_s for each in fresh], default=None)

    def residence(self, keys: PrefixKeys, prompt_tokens: int, now: float) -> Residence:
        """What the replica that has most of a prompt saves, in its seconds.

        A replica that has not measured how fast it reads does not count.
        """
        cached = self._state.index.match(keys, now)
        found = []
        for name, seat in self._board.seats.items():
            load = self._state.loads.get(name)
            if load is not None and load.measured and not self._avoided(seat.address):
                unread_s = read_s(load, prompt_tokens, cached.get(name, 0))
                gain_s = prompt_tokens / load.prefill_tokens_per_s - unread_s
                found.append(Residence(gain_s, unread_s))
        return max(found, key=lambda each: (each.gain_s, -each.read_s), default=NOWHERE)

    def note(self, plan: PrefixPlan, address: Address, now: float) -> OwnChoice | None:
        """The call has a place on a replica; see `end`."""
        name = self._state.name_at(address)
        if name is None:
            return None
        cached = min(plan.cached_tokens.get(name, 0), plan.prompt_tokens)
        self._state.index.expect(name, plan.keys, plan.prompt_tokens, now)
        self.predicted_tokens += cached
        self.prompt_tokens += plan.prompt_tokens
        return self._own.note(name, plan.prompt_tokens - cached, now)

    def end(self, choice: OwnChoice) -> None:
        """The answer has begun, or will not: nothing of the prompt is left to read."""
        self._own.end(choice)
