"""vLLM's prefix cache as it is: blocks in an LRU order, freed when a call ends, the last first."""

from __future__ import annotations

from collections import OrderedDict


class BlockCache:
    """Counts the cached tokens of prompts that are read one after another."""

    def __init__(self, blocks: int, block_tokens: int) -> None:
        self._blocks = blocks
        self._block_tokens = block_tokens
        self._free: OrderedDict[bytes, None] = OrderedDict()

    def read(self, text: bytes) -> int:
        """The tokens of a prompt that were cached; a token is a byte."""
        size = self._block_tokens
        hashes = [text[: end + size] for end in range(0, len(text) - size + 1, size)]
        cached = 0
        while cached < len(hashes) and hashes[cached] in self._free:
            cached += 1
        for found in hashes:
            self._free.pop(found, None)
        while len(self._free) + len(hashes) > self._blocks and self._free:
            self._free.popitem(last=False)
        for found in reversed(hashes):
            self._free[found] = None
        return min(cached, (len(text) - 1) // size) * size
