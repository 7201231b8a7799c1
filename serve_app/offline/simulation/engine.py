"""One replica: continuous batching with the timing of a roofline.

Between two events the engine's rate is constant. Every running call gets one token per step, so one
counter of steps determines when each call ends. No single step is simulated.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass

NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class EngineTiming:
    """The time of one step of a replica.

    A step reads all weights (`weights_s`) or computes every token in it (`token_s` each), whichever
    takes longer. It also reads the keys and values of the context (`context_token_s` per token),
    and costs `overhead_s`. Prompts are read in chunks of `chunk_tokens`; meanwhile the running
    calls get one token per chunk.
    """

    weights_s: float
    token_s: float
    context_token_s: float
    overhead_s: float
    chunk_tokens: int
    kv_tokens: int
    sequences_max: int

    def step_s(self, sequences: int, context_tokens: float) -> float:
        """Seconds of one step without prompts."""
        work_s = max(self.weights_s, sequences * self.token_s)
        return work_s + context_tokens * self.context_token_s + self.overhead_s


class SimCall:
    """One call: its arrival, its lengths in tokens, and the time of its first token.

    `cached` are the tokens of the prompt that the engine need not read.
    """

    __slots__ = ("arrived_s", "cached", "first_token_s", "output", "placed_s", "prompt", "spilled")

    def __init__(self, arrived_s: float, prompt: int, output: int) -> None:
        self.arrived_s = arrived_s
        self.prompt = prompt
        self.output = output
        self.cached = 0
        self.placed_s = NEVER
        self.first_token_s = NEVER
        self.spilled = False


class SimEngine:
    """The engine of one replica. Times are seconds of the simulation's clock and never go back."""

    __slots__ = (
        "_context",
        "_left_s",
        "_reserved",
        "_running",
        "_serial",
        "_steps",
        "_timing",
        "_told_s",
        "finished",
        "first_token_waits_s",
        "first_tokens",
        "output_tokens",
        "prefilling",
        "prompt_tokens",
        "waiting",
    )

    def __init__(self, timing: EngineTiming, now_s: float) -> None:
        self._timing = timing
        self._told_s = now_s
        self._steps = 0.0
        self._running: list[tuple[float, int, SimCall]] = []
        self._serial = 0
        self._reserved = 0
        self._context = 0.0
        self._left_s = 0.0
        self.prefilling: deque[SimCall] = deque()
        self.waiting: deque[SimCall] = deque()
        self.first_tokens = 0
        self.first_token_waits_s = 0.0
        self.prompt_tokens = 0
        self.output_tokens = 0
        self.finished = 0

    @property
    def calls(self) -> int:
        """All calls in the engine."""
        return len(self._running) + len(self.prefilling) + len(self.waiting)

    @property
    def running(self) -> int:
        """The calls that the engine works on."""
        return len(self._running) + len(self.prefilling)

    @property
    def kv_used_ratio(self) -> float:
        """The used part of the KV cache."""
        return min(1.0, self._reserved / self._timing.kv_tokens)

    def add(self, call: SimCall, now_s: float) -> None:
        """Take a call."""
        self._advance(now_s)
        call.placed_s = now_s
        self.waiting.append(call)
        self._admit()

    def next_event_s(self) -> float:
        """The time of the next event, if no call arrives before."""
        if self.prefilling:
            prefilled_s = self._told_s + self._left_s
            if not self._running:
                return prefilled_s
            return min(prefilled_s, self._next_end_s())
        return self._next_end_s() if self._running else NEVER

    def run(self, now_s: float) -> list[SimCall]:
        """Handle the events of this time, and return the calls that have ended."""
        self._advance(now_s)
        ended = []
        while self._running and self._running[0][0] <= self._steps + 1e-9:
            ended.append(self._end(heapq.heappop(self._running)[2]))
        if self.prefilling and self._left_s <= 1e-9:
            call = self.prefilling.popleft()
            call.first_token_s = now_s
            self.first_tokens += 1
            self.first_token_waits_s += now_s - call.placed_s
            if call.output <= 1:
                ended.append(self._end(call))
            else:
                self._serial += 1
                item = (self._steps + call.output - 1, self._serial, call)
                heapq.heappush(self._running, item)
            self._begin_prefill()
        self._admit()
        return ended

    def _end(self, call: SimCall) -> SimCall:
        self._reserved -= call.prompt + call.output
        self._context -= call.prompt + call.output / 2
        self.finished += 1
        self.prompt_tokens += call.prompt
        self.output_tokens += call.output
        return call

    def _next_end_s(self) -> float:
        return self._told_s + (self._running[0][0] - self._steps) * self._step_s()

    def _step_s(self) -> float:
        timing = self._timing
        step_s = timing.step_s(len(self._running), self._context)
        if self.prefilling:
            call = self.prefilling[0]
            step_s += timing.token_s * min(timing.chunk_tokens, call.prompt - call.cached)
        return step_s

    def _advance(self, now_s: float) -> None:
        passed_s = now_s - self._told_s
        if passed_s <= 0:
            return
        if self._running:
            self._steps += passed_s / self._step_s()
        if self.prefilling:
            self._left_s = max(0.0, self._left_s - passed_s)
        self._told_s = now_s

    def _admit(self) -> None:
        """Start waiting calls in order of arrival, within the limits of sequences and KV cache.

        A call reserves its whole length at once, which vLLM cannot know. The reservation stands in
        for the preemptions of a full cache.
        """
        timing = self._timing
        while self.waiting and self.running < timing.sequences_max:
            call = self.waiting[0]
            length = call.prompt + call.output
            if self._reserved + length > timing.kv_tokens and self.running:
                return
            self._reserved += length
            self._context += call.prompt + call.output / 2
            self.prefilling.append(self.waiting.popleft())
            if len(self.prefilling) == 1:
                self._begin_prefill()

    def _begin_prefill(self) -> None:
        """The time that the first prompt takes: its tokens, and the steps that it rides in."""
        if not self.prefilling:
            return
        timing = self._timing
        call = self.prefilling[0]
        call.cached = self._find_cached(call)
        prompt = call.prompt - call.cached
        steps = -(-prompt // timing.chunk_tokens)
        step_s = timing.step_s(len(self._running), self._context)
        self._left_s = prompt * timing.token_s + steps * step_s

    def _find_cached(self, call: SimCall) -> int:
        """The tokens of a prompt that need not be read; this engine has no prefix cache."""
        return 0
