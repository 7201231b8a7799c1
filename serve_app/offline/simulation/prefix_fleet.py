"""Replicas with prefix caches under a trace, and Routers that choose between them.

Each call comes to a Router by chance. A call goes to its replica at once, and waits there: vLLM
reads prompts in the order of their arrival. The time on the network is left out.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

from serve_app.offline.simulation.engine import NEVER, EngineTiming
from serve_app.offline.simulation.prefix_engine import Holders, Node, SharingCall
from serve_app.offline.simulation.prefix_policies import REPORT_S, Build, Policy, Report
from serve_app.offline.simulation.prefix_trace import PrefixCall

WARM_RATIO = 0.2
"""The first part of a run, in which caches fill, does not count."""


@dataclass(frozen=True, slots=True)
class PrefixOutcome:
    """One policy in one run."""

    calls: int
    hit_ratio: float
    first_token_mean_s: float
    first_token_p50_s: float
    first_token_p99_s: float
    prefill_s: float
    """Seconds of replicas that read prompts."""


class PrefixFleet:
    """Runs one policy."""

    def __init__(
        self,
        timing: EngineTiming,
        replicas: int,
        routers: int,
        build: Build,
        seed: int = 0,
        report_s: float = REPORT_S,
    ) -> None:
        self._report_s = report_s
        self._chance = random.Random(seed)  # Not for secrets: the same seed, the same run.
        holders = Holders()
        self._nodes = [Node(index, timing, holders) for index in range(replicas)]
        self._routers: list[Policy] = [
            build(self._nodes, holders, timing.token_s, random.Random(seed + 1 + number))
            for number in range(routers)
        ]
        self._heap: list[tuple[float, int, int, int]] = []
        self._turns = [0] * replicas
        self._serial = count()

    def run(self, calls: Sequence[PrefixCall]) -> list[SharingCall]:
        """Run all calls to their first token at least, and return them."""
        placed: list[SharingCall] = []
        report_s = 0.0
        for call in calls:
            while report_s <= call.arrived_s:
                self._advance(report_s)
                self._report()
                report_s += self._report_s
            self._advance(call.arrived_s)
            placed.append(self._place(call))
        while self._heap:
            self._advance(self._heap[0][0])
        return placed

    def _place(self, call: PrefixCall) -> SharingCall:
        router = self._chance.randrange(len(self._routers))
        shared = SharingCall(call, router)
        node = self._nodes[self._routers[router].choose(shared, call.arrived_s)]
        node.add(shared, call.arrived_s)
        self._expect(node)
        return shared

    def _report(self) -> None:
        reports = [Report(node) for node in self._nodes]
        for router in self._routers:
            router.hear(reports)

    def _advance(self, now_s: float) -> None:
        while self._heap and self._heap[0][0] <= now_s:
            at_s, _, index, turn = heapq.heappop(self._heap)
            if turn == self._turns[index]:
                self._run_node(self._nodes[index], at_s)

    def _run_node(self, node: Node, now_s: float) -> None:
        begun, ended = node.run(now_s)
        if begun is not None:
            self._routers[begun.router].began(begun)
        for call in ended:
            self._routers[call.router].ended(call)
        self._expect(node)

    def _expect(self, node: Node) -> None:
        self._turns[node.index] += 1
        event_s = node.engine.next_event_s()
        if event_s < NEVER:
            item = (event_s, next(self._serial), node.index, self._turns[node.index])
            heapq.heappush(self._heap, item)


def sum_up(calls: Sequence[SharingCall], timing: EngineTiming) -> PrefixOutcome:
    """The outcome of the calls after the first part."""
    start_s = WARM_RATIO * calls[-1].arrived_s
    counted = [call for call in calls if call.arrived_s >= start_s]
    waits = sorted(call.first_token_s - call.arrived_s for call in counted)
    prompt = sum(call.prompt for call in counted)
    cached = sum(call.cached for call in counted)
    return PrefixOutcome(
        calls=len(counted),
        hit_ratio=cached / prompt,
        first_token_mean_s=sum(waits) / len(waits),
        first_token_p50_s=waits[len(waits) // 2],
        first_token_p99_s=waits[int(0.99 * len(waits))],
        prefill_s=(prompt - cached) * timing.token_s,
    )
