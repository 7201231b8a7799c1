"""How Routers choose a replica: this service's classes, and the rules of others as published.

Where a rule needs the state of the replicas, it gets the best that its system offers. The cached
blocks are exact and known at once for llm-d and Dynamo, which hear the engines' events. llm-d has
one scheduler for all calls, and so knows their load exactly; the same rule with a scheduler in each
Router knows the load of its own calls. SGLang's routers know only the calls that they sent, and so
do Dynamo's unless they are synchronised, here without any delay.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from serve_app.core.prefix import PrefixChange
from serve_app.leases.prefix_cost import UNSEEN_S, OwnChoices, ReplicaLoad, rank
from serve_app.leases.prefix_index import PrefixIndex
from serve_app.offline.simulation.prefix_engine import Holders, Node, SharingCall
from serve_app.offline.simulation.prefix_trace import BLOCK_TOKENS

REPORT_S = 0.1
"""The age of the state of replicas that this service's Routers have, at most."""


class Policy(Protocol):
    """The choice of one Router."""

    def choose(self, call: SharingCall, now_s: float) -> int:
        """The replica that gets a call."""
        ...

    def began(self, call: SharingCall) -> None:
        """A call that this Router sent has its first token."""
        ...

    def ended(self, call: SharingCall) -> None:
        """A call that this Router sent has ended."""
        ...

    def hear(self, reports: Sequence[Report]) -> None:
        """The replicas report their state."""
        ...


class Report:
    """What one replica tells all Routers at one time."""

    __slots__ = ("changes", "load", "name", "snapshot", "version")

    def __init__(self, node: Node) -> None:
        self.name = node.name
        self.load = node.load()
        changes = node.table.drain()
        self.snapshot = changes is None
        self.changes: Sequence[PrefixChange] = node.table.snapshot() if changes is None else changes
        if self.changes or self.snapshot:
            node.version += 1
        self.version = node.version


class SilentPolicy:
    """Nothing is kept of what happens to calls, and reports are not heard."""

    def began(self, call: SharingCall) -> None:
        """Nothing is kept."""

    def ended(self, call: SharingCall) -> None:
        """Nothing is kept."""

    def hear(self, reports: Sequence[Report]) -> None:
        """Nothing is heard."""


class RoundRobin(SilentPolicy):
    """One replica after another."""

    def __init__(self, nodes: Sequence[Node], chance: random.Random) -> None:
        self._count = len(nodes)
        self._next = chance.randrange(self._count)

    def choose(self, call: SharingCall, now_s: float) -> int:
        """The next replica."""
        self._next = (self._next + 1) % self._count
        return self._next


class LeastLoaded(SilentPolicy):
    """The replica with the fewest calls of all Routers, known exactly."""

    def __init__(self, nodes: Sequence[Node], chance: random.Random) -> None:
        self._nodes = nodes
        self._chance = chance

    def choose(self, call: SharingCall, now_s: float) -> int:
        """The replica with the fewest calls."""
        return _least([node.calls for node in self._nodes], self._chance)


class LlmdFilter(SilentPolicy):
    """llm-d's optimized baseline (guides/optimized-baseline of github.com/llm-d/llm-d, 2026).

    `prefix-cache-affinity-filter` keeps the replicas with at least 0.8 of the prompt, unless the
    least loaded of them would begin 18 s after the least loaded of all; `token-load-scorer` takes
    the one with the fewest tokens in flight. One call of a hundred ignores the filter.
    """

    MATCH_MIN, PENALTY_MAX_S, EXPLORE_RATIO = 0.8, 18.0, 0.01

    def __init__(
        self,
        nodes: Sequence[Node],
        holders: Holders,
        token_s: float,
        chance: random.Random,
        *,
        alone: bool,
    ) -> None:
        """`alone`: one scheduler chooses for all Routers."""
        self._nodes, self._holders, self._token_s = nodes, holders, token_s
        self._chance = chance
        self._alone = alone
        self._sent = [0] * len(nodes)

    def choose(self, call: SharingCall, now_s: float) -> int:
        """The least loaded of the replicas with the prompt, or of all."""
        cached = self._holders.match(call.call.blocks, len(self._nodes))
        chosen = self._choose(cached, call.prompt)
        call.expected_cached = cached[chosen]
        self._sent[chosen] += call.prompt - cached[chosen]
        return chosen

    def _choose(self, cached: Sequence[int], prompt: int) -> int:
        loads = [node.pending_tokens for node in self._nodes] if self._alone else self._sent
        warm = [i for i, tokens in enumerate(cached) if tokens >= self.MATCH_MIN * prompt]
        if not warm or self._chance.random() < self.EXPLORE_RATIO:
            return _least(loads, self._chance)
        penalty_s = (min(loads[i] for i in warm) - min(loads)) * self._token_s
        if penalty_s > self.PENALTY_MAX_S:
            return _least(loads, self._chance)
        return warm[_least([loads[i] for i in warm], self._chance)]

    def began(self, call: SharingCall) -> None:
        """The prompt has been read."""
        self._sent[call.replica] -= call.prompt - call.expected_cached


class SglangCacheAware(SilentPolicy):
    """SGLang's router (SMG): docs/concepts/routing/cache-aware.md of github.com/lightseekorg/smg.

    Out of balance (more than 64 calls and 1.5 times apart): the fewest calls. Otherwise the replica
    that this router sent the longest beginning to, if that is more than 0.3 of the prompt, else the
    fewest calls. Each router knows its own calls only.
    """

    MATCH_MIN, SPREAD_MIN, SPREAD_RATIO_MIN = 0.3, 64, 1.5

    def __init__(self, nodes: Sequence[Node], chance: random.Random) -> None:
        self._sent = Holders()
        self._calls = [0] * len(nodes)
        self._chance = chance

    def choose(self, call: SharingCall, now_s: float) -> int:
        """The replica by the rule; this router's tree learns where the prompt went."""
        chosen = self._choose(call)
        for block in call.call.blocks:
            self._sent.add(block, 1 << chosen)
        self._calls[chosen] += 1
        return chosen

    def _choose(self, call: SharingCall) -> int:
        most, fewest = max(self._calls), min(self._calls)
        if most - fewest > self.SPREAD_MIN and most > self.SPREAD_RATIO_MIN * fewest:
            return _least(self._calls, self._chance)
        sent = self._sent.match(call.call.blocks, len(self._calls))
        longest = max(sent)
        if longest <= self.MATCH_MIN * call.prompt:
            return _least(self._calls, self._chance)
        warm = [i for i, tokens in enumerate(sent) if tokens == longest]
        return warm[_least([self._calls[i] for i in warm], self._chance)]

    def ended(self, call: SharingCall) -> None:
        """The replica has one call less."""
        self._calls[call.replica] -= 1


class DynamoCost(SilentPolicy):
    """Dynamo's KV router (docs/design_docs/router_design.md of github.com/ai-dynamo/dynamo).

    The smallest sum of blocks to read (those of active prompts, and of this prompt without its
    cached blocks) and of active blocks, this prompt's among them: weight 1 and temperature 0, the
    defaults. `synced`: the routers tell each other their decisions at once (`router_replica_sync`,
    off by default); otherwise each knows the active blocks of its own calls.
    """

    def __init__(
        self, nodes: Sequence[Node], holders: Holders, chance: random.Random, *, synced: bool
    ) -> None:
        self._nodes, self._holders, self._chance = nodes, holders, chance
        self._synced = synced
        self._pending = [0] * len(nodes)
        self._active = [0] * len(nodes)

    def choose(self, call: SharingCall, now_s: float) -> int:
        """The replica with the lowest cost."""
        cached = self._holders.match(call.call.blocks, len(self._nodes))
        costs = [
            (self._unread(i) - cached[i] + self._held(i)) // BLOCK_TOKENS
            for i in range(len(self._nodes))
        ]
        chosen = _least(costs, self._chance)
        call.expected_cached = cached[chosen]
        self._pending[chosen] += call.prompt - cached[chosen]
        self._active[chosen] += call.prompt
        return chosen

    def _unread(self, index: int) -> int:
        return self._nodes[index].pending_tokens if self._synced else self._pending[index]

    def _held(self, index: int) -> int:
        return self._nodes[index].active_tokens if self._synced else self._active[index]

    def began(self, call: SharingCall) -> None:
        """The prompt has been read."""
        self._pending[call.replica] -= call.prompt - call.expected_cached

    def ended(self, call: SharingCall) -> None:
        """The blocks of the call are free."""
        self._active[call.replica] -= call.prompt


class ExpectedSeconds(SilentPolicy):
    """This service: the index, the cost and the replicas' tables that serve."""

    def __init__(
        self, nodes: Sequence[Node], chance: random.Random, unseen_s: float = UNSEEN_S
    ) -> None:
        self._index = PrefixIndex()
        self._own = OwnChoices(unseen_s)
        self._chance = chance
        self._loads: dict[str, ReplicaLoad] = {node.name: node.load() for node in nodes}
        self._versions: dict[str, int] = {}
        self._places: Mapping[str, int] = {node.name: node.index for node in nodes}
        for node in nodes:
            self._index.restart(node.name, 1, node.version, node.table.snapshot())

    def choose(self, call: SharingCall, now_s: float) -> int:
        """The replica that is expected to begin first."""
        keys = call.call.keys
        cached = self._index.match(keys, now_s)
        ranked = rank(self._loads, cached, self._own.tokens(now_s), call.prompt, self._chance)
        best = ranked[0]
        self._own.note(best.replica, call.prompt - best.cached_tokens, now_s)
        self._index.expect(best.replica, keys, call.prompt, now_s)
        return self._places[best.replica]

    def hear(self, reports: Sequence[Report]) -> None:
        """The replicas report their load, and their keys that have changed."""
        for report in reports:
            self._loads[report.name] = report.load
            if report.snapshot:
                self._index.restart(report.name, 1, report.version, report.changes)
            elif report.changes:
                self._index.apply(report.name, 1, report.version, report.changes)


Build = Callable[[Sequence[Node], Holders, float, random.Random], Policy]
"""A policy for each Router, from the replicas, what they hold, and the time to read a token."""

RIVALS: Mapping[str, Build] = {
    "round robin": lambda nodes, _holders, _token_s, chance: RoundRobin(nodes, chance),
    "least loaded, exact": lambda nodes, _holders, _token_s, chance: LeastLoaded(nodes, chance),
    "SGLang": lambda nodes, _holders, _token_s, chance: SglangCacheAware(nodes, chance),
    "llm-d, one scheduler": lambda nodes, holders, token_s, chance: LlmdFilter(
        nodes, holders, token_s, chance, alone=True
    ),
    "llm-d, one a Router": lambda nodes, holders, token_s, chance: LlmdFilter(
        nodes, holders, token_s, chance, alone=False
    ),
    "Dynamo": lambda nodes, holders, _token_s, chance: DynamoCost(
        nodes, holders, chance, synced=False
    ),
    "Dynamo, synced at once": lambda nodes, holders, _token_s, chance: DynamoCost(
        nodes, holders, chance, synced=True
    ),
}
OURS = "expected seconds"
OFTEN, OFTEN_S = "expected seconds, 0.02 s old", 0.02
REPORTS_S: Mapping[str, float] = {OFTEN: OFTEN_S}
"""The age of reports for rules that do not have `REPORT_S`."""
POLICIES: Mapping[str, Build] = {
    **RIVALS,
    OURS: lambda nodes, _holders, _token_s, chance: ExpectedSeconds(nodes, chance),
    OFTEN: lambda nodes, _holders, _token_s, chance: ExpectedSeconds(nodes, chance, 1.5 * OFTEN_S),
}


def _least(values: Sequence[float], chance: random.Random) -> int:
    """The place of the smallest value; chance decides between equal ones."""
    smallest = min(values)
    return chance.choice([i for i, value in enumerate(values) if value == smallest])
