"""The prompts that an engine has not read yet, how fast it reads, and what it had cached of them.

vLLM's request states, which the meter of each exchange has anyway (`engine_watch.py`), say whether
a prompt has been read and how many of its tokens were cached. The watch looks at the unread prompts
after each step of the engine, so it costs nothing for each token.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from serve_app.core.prefix import NO_KEYS, PrefixKeys
from serve_app.leases.prefix_cost import PREFILL_TOKENS_PER_S, ReplicaLoad
from serve_app.replica.meter import EngineRequest
from serve_app.replica.prefix_table import PrefixTable, Reading

MEASURED_TOKENS_MIN = 256
"""Fewer tokens take the time of a step whatever their number, and say nothing about the rate."""
COUNTED_S_MAX = 1.0
"""The longest time between two steps that counts: a stopped process reads nothing."""
GUESS_TOKENS = 2000.0
"""The weight of the rate that is assumed at the start."""
KEPT = 0.9
"""The weight that earlier measurements keep at the next one."""


@dataclass(slots=True)
class PrefixCounts:
    """Prompts that were read, their tokens, those of them that were cached, and by how many tokens
    the table was wrong about that."""

    prompts: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    error_tokens: int = 0


class PrefillRate:
    """How many tokens of prompts an engine reads in a second, lately."""

    def __init__(self) -> None:
        self._tokens, self._seconds = GUESS_TOKENS, GUESS_TOKENS / PREFILL_TOKENS_PER_S
        self._new_tokens, self._new_s = 0, 0.0

    @property
    def tokens_per_s(self) -> float:
        """The rate."""
        return self._tokens / self._seconds

    def note(self, tokens: int, seconds: float, *, idle: bool) -> None:
        """The engine has read so many tokens in the time of a step; `idle`: none are left."""
        self._new_tokens += tokens
        self._new_s += min(seconds, COUNTED_S_MAX)
        if self._new_tokens >= MEASURED_TOKENS_MIN and self._new_s > 0:
            self._tokens = KEPT * self._tokens + self._new_tokens
            self._seconds = KEPT * self._seconds + self._new_s
        elif not idle:
            return
        self._new_tokens, self._new_s = 0, 0.0


class PrefillCall:
    """One exchange at the door: its keys, and the prompts that the engine has accepted for it."""

    __slots__ = ("_reading", "_requests", "_watch")

    def __init__(self, watch: PrefillWatch, reading: Reading | None) -> None:
        self._watch, self._reading = watch, reading
        self._requests: list[EngineRequest] = []

    def add(self, request: EngineRequest) -> None:
        """The engine has accepted a request for the exchange."""
        if request.request_index == 0:
            # The keys are of the first prompt; a call of several prompts has no keys of the others.
            reading = self._reading if not self._requests else None
            self._requests.append(request)
            self._watch.add(request, reading)

    def end(self, output_tokens: int) -> None:
        """The exchange has ended."""
        self._watch.look()
        for request in self._requests:
            self._watch.forget(request)
        if self._reading is not None:
            self._watch.end(self._reading, output_tokens)


class PrefillWatch:
    """The unread prompts of one engine."""

    def __init__(
        self, table: PrefixTable | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`table`: the engine's prefix cache, None if replicas are not chosen by it."""
        self.table = table
        self._clock = clock
        self._unread: dict[int, tuple[EngineRequest, Reading | None, int]] = {}
        self._rate = PrefillRate()
        self._counts = PrefixCounts()
        self._looked_at = 0.0
        self.pending_tokens = 0
        """The tokens of all unread prompts that are not cached, as far as is known."""

    def complete(self, load: ReplicaLoad) -> ReplicaLoad:
        """The load with what the watch knows."""
        return replace(
            load,
            pending_tokens=self.pending_tokens,
            prefill_tokens_per_s=self._rate.tokens_per_s,
            trust_ratio=1.0 if self.table is None else self.table.trust_ratio,
        )

    def begin(self, keys: PrefixKeys | None) -> PrefillCall:
        """An exchange has come, with the keys of its prompt."""
        if self.table is None:
            return PrefillCall(self, None)
        return PrefillCall(self, self.table.begin(keys or NO_KEYS))

    def add(self, request: EngineRequest, reading: Reading | None) -> None:
        """A prompt waits, or is being read."""
        if not self._unread:
            self._looked_at = self._clock()
        predicted = 0 if reading is None else reading.predicted_tokens
        tokens = max(0, request.prompt_len - predicted)
        self._unread[id(request)] = (request, reading, tokens)
        self.pending_tokens += tokens

    def look(self) -> None:
        """A step of the engine has ended."""
        if not self._unread:
            return
        read = [each for each in self._unread.values() if not is_unread(each[0])]
        now = self._clock()
        seconds, self._looked_at = now - self._looked_at, now
        tokens = sum([self._note_read(*each) for each in read])
        self._rate.note(tokens, seconds, idle=not self._unread)

    def _note_read(self, request: EngineRequest, reading: Reading | None, tokens: int) -> int:
        """A prompt has been read. Returns the tokens that the engine had to compute."""
        self.forget(request)
        cached = min(count_cached(request), request.prompt_len)
        if reading is not None and self.table is not None:
            error = self.table.admit(reading, request.prompt_len, cached)
            self._count(request.prompt_len, cached, error)
        return request.prompt_len - cached

    def _count(self, prompt_tokens: int, cached_tokens: int, error_tokens: int) -> None:
        self._counts.prompts += 1
        self._counts.prompt_tokens += prompt_tokens
        self._counts.cached_tokens += cached_tokens
        self._counts.error_tokens += abs(error_tokens)

    def take_counts(self) -> PrefixCounts:
        """What has been read since this was last asked."""
        counts, self._counts = self._counts, PrefixCounts()
        return counts

    def forget(self, request: EngineRequest) -> None:
        """A prompt has been read, or will not be."""
        found = self._unread.pop(id(request), None)
        if found is not None:
            self.pending_tokens -= found[2]

    def end(self, reading: Reading, output_tokens: int) -> None:
        """A call has ended."""
        if self.table is not None:
            self.table.end(reading, output_tokens)


def is_unread(request: EngineRequest) -> bool:
    """Whether the engine has not read the prompt; no, if vLLM does not say so any more."""
    return bool(getattr(request, "is_prefilling", False))


def count_cached(request: EngineRequest) -> int:
    """The tokens of the prompt that the engine found in its cache."""
    return int(getattr(request, "num_cached_tokens", 0))
