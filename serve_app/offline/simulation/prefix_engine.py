"""A replica with a prefix cache, and what its door knows of it by the shipped table."""

from __future__ import annotations

from collections import OrderedDict

from serve_app.leases.prefix_cost import ReplicaLoad
from serve_app.offline.simulation.engine import EngineTiming, SimCall, SimEngine
from serve_app.offline.simulation.prefix_trace import BLOCK_TOKENS, PrefixCall
from serve_app.replica.prefix_table import PrefixTable, Reading

_KEPT = 0.9
"""The weight that earlier measurements of the rate keep at the next one."""


class Holders:
    """Which replicas hold which blocks, exactly: a bit for each replica."""

    def __init__(self) -> None:
        self.masks: dict[int, int] = {}

    def add(self, block: int, bit: int) -> None:
        """A replica holds a block now."""
        self.masks[block] = self.masks.get(block, 0) | bit

    def drop(self, block: int, bit: int) -> None:
        """A replica has evicted a block."""
        self.masks[block] &= ~bit

    def match(self, blocks: tuple[int, ...], replicas: int) -> list[int]:
        """The cached tokens of a prompt on each replica."""
        found = [0] * replicas
        alive = (1 << replicas) - 1
        for depth, block in enumerate(blocks):
            held = alive & self.masks.get(block, 0)
            _note(found, alive & ~held, depth * BLOCK_TOKENS)
            alive = held
            if not alive:
                return found
        _note(found, alive, len(blocks) * BLOCK_TOKENS)
        return found


def _note(found: list[int], mask: int, tokens: int) -> None:
    while mask and tokens:
        low = mask & -mask
        found[low.bit_length() - 1] = tokens
        mask ^= low


class BlockCache:
    """vLLM's prefix cache: blocks in use stay, free blocks go in the order in which calls ended."""

    def __init__(self, blocks_max: int, holders: Holders, bit: int) -> None:
        self._max = blocks_max
        self._holders = holders
        self._bit = bit
        self._used: dict[int, int] = {}
        self._free: OrderedDict[int, None] = OrderedDict()
        self._answers = 0
        self._next_answer = -1

    def take(self, blocks: tuple[int, ...], answer_blocks: int) -> int:
        """A call uses its blocks from now on. Returns how many were cached."""
        cached = 0
        for block in blocks:
            if block not in self._used and block not in self._free:
                break
            cached += 1
        for block in blocks:
            if block not in self._used and block not in self._free:
                self._holders.add(block, self._bit)
            self._free.pop(block, None)
            self._used[block] = self._used.get(block, 0) + 1
        self._answers += answer_blocks
        self._evict()
        return cached

    def give(self, blocks: tuple[int, ...], answer_blocks: int) -> None:
        """A call has ended; its last blocks will be evicted first."""
        self._answers -= answer_blocks
        for _ in range(answer_blocks):
            self._free[self._next_answer] = None
            self._next_answer -= 1
        for block in reversed(blocks):
            self._used[block] -= 1
            if not self._used[block]:
                del self._used[block]
                self._free[block] = None
        self._evict()

    def _evict(self) -> None:
        while self._free and len(self._used) + len(self._free) + self._answers > self._max:
            block, _ = self._free.popitem(last=False)
            if block >= 0:
                self._holders.drop(block, self._bit)


class SharingCall(SimCall):
    """A call of a trace in a replica."""

    __slots__ = ("began_s", "call", "expected_cached", "reading", "replica", "router", "uncached")

    def __init__(self, call: PrefixCall, router: int) -> None:
        super().__init__(call.arrived_s, call.prompt_tokens, call.output_tokens)
        self.call = call
        self.router = router
        self.replica = 0
        self.reading: Reading | None = None
        self.uncached = 0
        """The tokens that the replica expected to read, when the call came."""
        self.expected_cached = 0
        """The tokens that the Router believed to be cached."""
        self.began_s = 0.0

    @property
    def answer_blocks(self) -> int:
        """The blocks of the answer."""
        return -(-self.output // BLOCK_TOKENS)


class CachingEngine(SimEngine):
    """An engine that does not read what its cache holds."""

    __slots__ = ("_cache",)

    def __init__(self, timing: EngineTiming, cache: BlockCache) -> None:
        super().__init__(timing, 0.0)
        self._cache = cache

    def _find_cached(self, call: SimCall) -> int:
        assert isinstance(call, SharingCall)
        call.began_s = self._told_s
        cached = self._cache.take(call.call.blocks, call.answer_blocks)
        return min(cached, (call.prompt - 1) // BLOCK_TOKENS) * BLOCK_TOKENS

    def _end(self, call: SimCall) -> SimCall:
        assert isinstance(call, SharingCall)
        self._cache.give(call.call.blocks, call.answer_blocks)
        return super()._end(call)


class Node:
    """A replica: its engine, and at its door the table of keys and the load that it reports.

    The counts are those of all Routers, at this moment.
    """

    def __init__(self, index: int, timing: EngineTiming, holders: Holders) -> None:
        self.index = index
        self.name = f"r{index}"
        cache = BlockCache(timing.kv_tokens // BLOCK_TOKENS, holders, 1 << index)
        self.engine = CachingEngine(timing, cache)
        self.table = PrefixTable(timing.kv_tokens, block_tokens=BLOCK_TOKENS)
        self.calls = 0
        self.pending_tokens = 0
        self.active_tokens = 0
        self.version = 0
        """Of the changes of the table that were told."""
        self._tokens, self._seconds = 2000.0, 2000.0 * timing.token_s

    def add(self, call: SharingCall, now_s: float) -> None:
        """Take a call."""
        call.replica = self.index
        call.reading = self.table.begin(call.call.keys)
        call.uncached = max(0, call.prompt - call.reading.predicted_tokens)
        self.pending_tokens += call.uncached
        self.active_tokens += call.prompt
        self.calls += 1
        self.engine.add(call, now_s)

    def run(self, now_s: float) -> tuple[SharingCall | None, list[SharingCall]]:
        """Handle the engine's events: the call that has begun to answer, and those that ended."""
        first = next(iter(self.engine.prefilling), None)
        ended = self.engine.run(now_s)
        begun = None
        if isinstance(first, SharingCall) and first.first_token_s == now_s:
            begun = first
            self._note_first(first, now_s)
        done = [call for call in ended if isinstance(call, SharingCall)]
        for call in done:
            self.calls -= 1
            self.active_tokens -= call.prompt
            if call.reading is not None:
                self.table.end(call.reading, call.output)
        return begun, done

    def load(self) -> ReplicaLoad:
        """What the replica reports now."""
        return ReplicaLoad(
            pending_tokens=self.pending_tokens,
            prefill_tokens_per_s=self._tokens / self._seconds,
            running=self.engine.running,
            queued=len(self.engine.waiting),
            kv_used_ratio=self.engine.kv_used_ratio,
            trust_ratio=self.table.trust_ratio,
        )

    def _note_first(self, call: SharingCall, now_s: float) -> None:
        self.pending_tokens -= call.uncached
        if call.reading is not None:
            self.table.admit(call.reading, call.prompt, call.cached)
        self._tokens = _KEPT * self._tokens + call.prompt - call.cached
        self._seconds = _KEPT * self._seconds + now_s - call.began_s
