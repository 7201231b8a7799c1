"""A batch beside chat on one engine alone, timed by the CPU time that it takes.

The engine is vLLM's own, in this process and on one thread, so its clock stands still while other
programs have the cores, and the figures can be compared on a machine that others use. What Routers
and networks add is left out. While the engine has nothing to do, the clock leaps to the next call.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import process_time
from typing import Any, Protocol

from serve_app.core.ranks import BATCH_RANK, CLIENT_RANK
from serve_app.leases.spare_room import HELD_S
from serve_app.offline.bench.phase import CHAT_PROMPT

EXECUTOR = "serve_app.replica.one_device.OneDeviceExecutor"
IDLE_S = 0.001
_ENV = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "TORCH_COMPILE_DISABLE": "1",
}


class SteppedEngine(Protocol):
    """An engine that works only while it is told to make a step."""

    @property
    def busy(self) -> bool:
        """Whether it has calls."""
        ...

    def add(self, call_id: str, prompt: str, tokens: int, rank: int) -> None:
        """A call comes, for exactly so many tokens."""
        ...

    def step(self) -> Mapping[str, tuple[int, bool]]:
        """The calls that have got tokens: how many so far, and whether the call has ended."""
        ...

    def drop_all(self) -> None:
        """Stop every call."""
        ...


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """What comes to the engine: calls at random, and lines that are always there.

    `spare`: lines begin as a Router lets them, one after another and none while a call waits for
    its first token, for at most `HELD_S`. Otherwise they begin at once.
    """

    calls_per_s: float
    lines: int
    seconds: float
    spare: bool = True
    chat_tokens: int = 32
    line_tokens: int = 64
    chat_words: int = 0
    line_words: int = 0


@dataclass(slots=True)
class Written:
    """What came of it: the waits for first tokens in seconds, and the tokens of both kinds."""

    first_s: list[float]
    chat_tokens: int = 0
    line_tokens: int = 0


class EngineDriver:
    """Drives one engine through phases."""

    def __init__(
        self,
        engine: SteppedEngine,
        clock: Callable[[], float] = process_time,
        read_per_s: float = 10_000.0,
        seed: int = 1,
    ) -> None:
        """`clock` gives the seconds that the engine has worked, `read_per_s` the tokens of prompts
        that it reads in a second."""
        self._engine = engine
        self._clock = clock
        self._read_per_s = read_per_s
        self._paced_until = float("-inf")
        self._chance = random.Random(seed)  # Not for secrets.
        self._serial = 0
        self._leapt_s = 0.0

    def _now(self) -> float:
        return self._clock() + self._leapt_s

    def run(self, load: EngineLoad) -> Written:
        """One phase; what has not ended by then is stopped."""
        begun, written = self._now(), Written([])
        waiting: dict[str, float] = {}
        done: dict[str, int] = {}
        lines: set[str] = set()
        arrivals = self._arrive(load.calls_per_s, begun)
        due = next(arrivals)
        while (now := self._now()) < begun + load.seconds:
            while due <= now:
                prompt = CHAT_PROMPT + " word" * load.chat_words
                waiting[self._add(prompt, load.chat_tokens, CLIENT_RANK)] = due
                due = next(arrivals)
            while len(lines) < load.lines and self._may_begin(load, waiting, now):
                prompt = "Note {serial}: summarise this letter." + " word" * load.line_words
                lines.add(self._add(prompt, load.line_tokens, BATCH_RANK))
                self._paced_until = now + len(prompt.split()) / self._read_per_s
            if not self._engine.busy:
                paced = max(now + IDLE_S, self._paced_until) if load.lines else due
                self._leapt_s += max(0.0, min(due, paced, begun + load.seconds) - now)
                continue
            for call_id, (tokens, ended) in self._engine.step().items():
                new, done[call_id] = tokens - done.get(call_id, 0), tokens
                if call_id in lines:
                    written.line_tokens += new
                else:
                    written.chat_tokens += new
                if call_id in waiting and tokens:
                    written.first_s.append(self._now() - waiting.pop(call_id))
                if ended:
                    lines.discard(call_id)
        self._engine.drop_all()
        return written

    def _may_begin(self, load: EngineLoad, waiting: Mapping[str, float], now: float) -> bool:
        """Whether a line may begin, as `TierClient` decides it."""
        if not load.spare:
            return True
        return now >= self._paced_until and all(now - since >= HELD_S for since in waiting.values())

    def _arrive(self, calls_per_s: float, at_s: float) -> Iterator[float]:
        while True:
            at_s += self._chance.expovariate(calls_per_s) if calls_per_s else float("inf")
            yield at_s

    def _add(self, prompt: str, tokens: int, rank: int) -> str:
        self._serial += 1
        call_id = f"call-{self._serial}"
        self._engine.add(call_id, prompt.format(serial=f"{self._serial:08d}"), tokens, rank)
        return call_id


class EngineAlone:
    """vLLM's engine in this process, on one thread."""

    def __init__(self, model: Path, arguments: Mapping[str, Any]) -> None:
        os.environ.update(_ENV)
        # Imported here: it takes seconds, and reads the environment.
        import torch
        from vllm import EngineArgs, SamplingParams
        from vllm.v1.engine.llm_engine import LLMEngine

        torch.set_num_threads(1)
        config = EngineArgs(
            model=str(model), scheduling_policy="priority", async_scheduling=False, **arguments
        ).create_engine_config()
        config.parallel_config.distributed_executor_backend = EXECUTOR
        self._engine: Any = LLMEngine.from_vllm_config(config)
        self._params = SamplingParams
        self._calls: set[str] = set()

    @property
    def busy(self) -> bool:
        """Whether it has calls."""
        return bool(self._calls)

    def add(self, call_id: str, prompt: str, tokens: int, rank: int) -> None:
        """A call comes, for exactly so many tokens."""
        params = self._params(max_tokens=tokens, ignore_eos=True, temperature=0)
        self._engine.add_request(call_id, prompt, params, priority=rank)
        self._calls.add(call_id)

    def step(self) -> Mapping[str, tuple[int, bool]]:
        """The calls that have got tokens."""
        outputs = self._engine.step()
        self._calls.difference_update(each.request_id for each in outputs if each.finished)
        return {
            each.request_id: (len(each.outputs[0].token_ids), each.finished) for each in outputs
        }

    def drop_all(self) -> None:
        """Stop every call."""
        self._engine.abort_request(list(self._calls))
        self._calls.clear()
