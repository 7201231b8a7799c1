"""What an engine's prefix cache holds, told from the keys and the token counts of its calls.

The table mirrors vLLM's cache. The blocks of a running call stay. When the call ends, its blocks
become free, the last ones first, and the blocks that have been free for longest make room for new
ones. The engine's own count of cached tokens corrects the table at the first output of every call.

The keys of a call are published when the call comes, not when they are computed: a call with the
same beginning that follows it waits behind it and finds them computed.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from serve_app.core.prefix import PrefixChange, PrefixKeys

KEYS_MAX = 20_000
BLOCK_TOKENS = 16

TOKENS_PER_BYTE = 0.28
"""Until calls have shown the real ratio: `core/tokens.py` assumes 3.5 letters a token."""
_LEARNING = 0.05
"""The weight of a new call in averages."""
_FIRST_PROMISE_TOKENS = 1000.0
"""How much the first predictions count against a full trust."""
_MOVED_RATIO = 1 / 16
"""A key's number of tokens that changes by less is not published again."""


@dataclass(slots=True)
class _Entry:
    """A key: `tokens` up to it; `weight_tokens` of them lie behind the key before it.

    `waiting` calls will have it computed, `running` calls use it. Without a weight the key is not
    in the cache yet, or not any more.
    """

    tokens: int
    weight_tokens: int = 0
    waiting: int = 0
    running: int = 0


@dataclass(frozen=True, slots=True)
class _Tail:
    """The tokens of an ended call behind its last key, its answer among them."""

    tokens: int
    key: int | None


class Reading:
    """One call at the replica, from its arrival to its end."""

    __slots__ = ("admitted", "ended", "keys", "marked", "predicted_tokens", "tail_tokens")

    def __init__(self, keys: PrefixKeys, predicted_tokens: int) -> None:
        self.keys = keys
        self.predicted_tokens = predicted_tokens
        """The tokens that the published keys promised when the call came."""
        self.marked: tuple[int, ...] = ()
        """The keys that are in the table for this call."""
        self.admitted = False
        self.ended = False
        self.tail_tokens = 0


class PrefixTable:
    """The keys of one engine. All methods belong to one thread."""

    def __init__(
        self, capacity_tokens: int, *, block_tokens: int = BLOCK_TOKENS, keys_max: int = KEYS_MAX
    ) -> None:
        """`capacity_tokens`: the engine's cache blocks times the tokens of a block."""
        self._capacity_tokens = capacity_tokens
        self._block_tokens = block_tokens
        self._keys_max = keys_max
        self._entries: dict[int, _Entry] = {}
        self._tails: dict[int, _Tail] = {}
        self._tail_behind: dict[int, int] = {}
        self._next_tail = -1
        self._free: OrderedDict[int, None] = OrderedDict()
        """Keys, and tails by negative ids, in the order in which they are evicted."""
        self._used_tokens = 0
        self._tokens_per_byte = TOKENS_PER_BYTE
        self._promised_tokens = self._kept_tokens = _FIRST_PROMISE_TOKENS
        self._changed: dict[int, int] | None = {}

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def used_tokens(self) -> int:
        """The tokens in the cache, as far as the table knows."""
        return self._used_tokens

    @property
    def trust_ratio(self) -> float:
        """The part of the promised tokens that the engine had, lately; at most 1."""
        return min(1.0, self._kept_tokens / self._promised_tokens)

    def predict(self, keys: PrefixKeys) -> int:
        """The tokens of a prompt that are cached, or will be when the calls before it are read."""
        found = 0
        for key in keys.keys:
            entry = self._entries.get(key)
            if entry is None:
                break
            found = entry.tokens
        return found - found % self._block_tokens

    def begin(self, keys: PrefixKeys) -> Reading:
        """A call has come; its keys will soon be in the cache."""
        reading = Reading(keys, self.predict(keys))
        prompt_tokens = keys.size_bytes * self._tokens_per_byte
        count = 0
        for index, key in enumerate(keys.keys):
            entry = self._entries.get(key)
            if entry is None:
                if not self._has_room():
                    break
                entry = self._entries[key] = _Entry(keys.tokens_at(index, prompt_tokens))
                self._publish(key, entry.tokens)
            entry.waiting += 1
            count += 1
        reading.marked = keys.keys[:count]
        return reading

    def admit(self, reading: Reading, prompt_tokens: int, cached_tokens: int) -> int:
        """The first output of a call has come, with the engine's counts.

        Returns the tokens by which the engine had cached more than predicted.
        """
        if reading.admitted or reading.ended:
            return 0
        reading.admitted = True
        self._take_tail(reading, cached_tokens)
        before = 0
        for index, key in enumerate(reading.marked):
            entry = self._entries[key]
            entry.waiting -= 1
            entry.running += 1
            self._free.pop(key, None)
            if entry.weight_tokens == 0:
                self._weigh(key, entry, before, reading.keys.tokens_at(index, prompt_tokens))
            before = entry.tokens
        reading.tail_tokens = max(0, prompt_tokens - before)
        self._used_tokens += reading.tail_tokens
        self._evict()
        return self._learn(reading, prompt_tokens, cached_tokens)

    def end(self, reading: Reading, output_tokens: int = 0) -> None:
        """A call has ended, whether or not it had an output; more calls of this do nothing."""
        if reading.ended:
            return
        reading.ended = True
        if not reading.admitted:
            self._give_up(reading)
            return
        self._used_tokens += output_tokens
        self._leave_tail(reading, reading.tail_tokens + output_tokens)
        for key in reversed(reading.marked):
            entry = self._entries[key]
            entry.running -= 1
            if entry.running == 0:
                self._free[key] = None
        self._evict()

    def clear(self) -> None:
        """The engine has emptied its cache, which it does while no call runs."""
        for key in list(self._free):
            del self._free[key]
            self._forget(key)

    def drain(self) -> list[PrefixChange] | None:
        """What has changed since the last call; None: too much, send a snapshot instead."""
        changed, self._changed = self._changed, {}
        if changed is None:
            return None
        return [PrefixChange(key, tokens) for key, tokens in changed.items()]

    def snapshot(self) -> list[PrefixChange]:
        """Every key that is published now."""
        return [PrefixChange(key, entry.tokens) for key, entry in self._entries.items()]

    def _has_room(self) -> bool:
        """Whether one more key fits, if need be after an eviction."""
        if len(self._entries) + len(self._tails) < self._keys_max:
            return True
        if not self._free:
            return False
        self._forget(self._free.popitem(last=False)[0])
        return len(self._entries) + len(self._tails) < self._keys_max

    def _weigh(self, key: int, entry: _Entry, before: int, tokens: int) -> None:
        """A key is in the cache from now on, with this number of tokens by the engine's count."""
        tokens = max(tokens, before + 1)
        if abs(tokens - entry.tokens) > _MOVED_RATIO * entry.tokens:
            self._publish(key, tokens)
        entry.tokens = tokens
        entry.weight_tokens = tokens - before
        self._used_tokens += entry.weight_tokens

    def _take_tail(self, reading: Reading, cached_tokens: int) -> None:
        """Forget the tail that the engine has found cached: new keys will stand for its tokens."""
        last = None
        for key in reading.marked:
            if self._entries[key].weight_tokens == 0:
                break
            last = key
        if last is None or cached_tokens <= self._entries[last].tokens + self._block_tokens:
            return
        tail = self._tail_behind.get(last)
        if tail is not None:
            self._free.pop(tail)
            self._forget(tail)

    def _leave_tail(self, reading: Reading, tokens: int) -> None:
        if tokens <= 0:
            return
        key = reading.marked[-1] if reading.marked else None
        self._tails[self._next_tail] = _Tail(tokens, key)
        self._free[self._next_tail] = None
        if key is not None:
            self._tail_behind[key] = self._next_tail
        self._next_tail -= 1

    def _give_up(self, reading: Reading) -> None:
        """A call has ended before it was read."""
        for key in reading.marked:
            entry = self._entries[key]
            entry.waiting -= 1
            if entry.waiting == 0 and entry.weight_tokens == 0:
                self._remove(key)

    def _evict(self) -> None:
        while self._free and (
            self._used_tokens > self._capacity_tokens
            or len(self._entries) + len(self._tails) > self._keys_max
        ):
            self._forget(self._free.popitem(last=False)[0])

    def _forget(self, key: int) -> None:
        """A key or tail is no longer in the cache; a key that a call waits for stays published."""
        if key < 0:
            tail = self._tails.pop(key)
            self._used_tokens -= tail.tokens
            if tail.key is not None and self._tail_behind.get(tail.key) == key:
                del self._tail_behind[tail.key]
            return
        entry = self._entries[key]
        self._used_tokens -= entry.weight_tokens
        entry.weight_tokens = 0
        if entry.waiting == 0:
            self._remove(key)

    def _remove(self, key: int) -> None:
        del self._entries[key]
        self._publish(key, 0)

    def _publish(self, key: int, tokens: int) -> None:
        if self._changed is None:
            return
        self._changed[key] = tokens
        if len(self._changed) > self._keys_max:
            self._changed = None  # It was not read for long, and a snapshot is shorter.

    def _learn(self, reading: Reading, prompt_tokens: int, cached_tokens: int) -> int:
        predicted = reading.predicted_tokens
        if reading.keys.size_bytes:
            ratio = prompt_tokens / reading.keys.size_bytes
            self._tokens_per_byte += _LEARNING * (ratio - self._tokens_per_byte)
        self._promised_tokens += _LEARNING * (predicted - self._promised_tokens)
        self._kept_tokens += _LEARNING * (min(predicted, cached_tokens) - self._kept_tokens)
        return cached_tokens - predicted
