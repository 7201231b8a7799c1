"""An engine that makes steps of the length that a roofline gives them, with vLLM's schedule."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass

from serve_app.offline.simulation.engine import EngineTiming


@dataclass(slots=True)
class _Call:
    call_id: str
    prompt: int
    tokens: int
    read: int = 0
    written: int = 0


class RooflineEngine:
    """A `SteppedEngine` with a clock of its own.

    As in vLLM, a step first serves the calls that run, each with its next token or the next part of
    its prompt. What is left of `batched_tokens` goes to the calls that wait, those of the lowest
    rank first. A word of a prompt counts as a token.
    """

    def __init__(self, timing: EngineTiming, batched_tokens: int) -> None:
        self._timing = timing
        self._batched_tokens = batched_tokens
        self._running: list[_Call] = []
        self._waiting: list[tuple[int, int, _Call]] = []
        self._serial = 0
        self.now_s = 0.0

    def clock(self) -> float:
        """The seconds that the engine has worked."""
        return self.now_s

    @property
    def busy(self) -> bool:
        """Whether it has calls."""
        return bool(self._running or self._waiting)

    def add(self, call_id: str, prompt: str, tokens: int, rank: int) -> None:
        """A call comes, for exactly so many tokens."""
        self._serial += 1
        call = _Call(call_id, len(prompt.split()), tokens)
        heapq.heappush(self._waiting, (rank, self._serial, call))

    def step(self) -> Mapping[str, tuple[int, bool]]:
        """The calls that have got tokens."""
        left = self._batched_tokens
        for call in self._running:
            left -= self._serve(call, left)
        while self._waiting and left > 0 and len(self._running) < self._timing.sequences_max:
            call = heapq.heappop(self._waiting)[2]
            self._running.append(call)
            left -= self._serve(call, left)
        self.now_s += self._step_s(self._batched_tokens - left)
        told = {
            call.call_id: (call.written, call.written >= call.tokens)
            for call in self._running
            if call.written
        }
        self._running = [call for call in self._running if call.written < call.tokens]
        return told

    @staticmethod
    def _serve(call: _Call, left: int) -> int:
        """Read or write for a call; returns the tokens that this takes."""
        if call.read == call.prompt:
            call.written += 1
            return 1
        taken = max(0, min(call.prompt - call.read, left))
        call.read += taken
        call.written += call.read == call.prompt
        return taken

    def _step_s(self, tokens: int) -> float:
        context = sum(call.read + call.written for call in self._running)
        return self._timing.step_s(tokens, context)

    def drop_all(self) -> None:
        """Stop every call."""
        self._running.clear()
        self._waiting.clear()
