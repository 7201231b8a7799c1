"""What a Router knows of the replicas' prefix caches: the keys that each replica has published.

A replica with a key has all shorter beginnings of that prompt too, because engines evict the end of
a prompt first. So the longest known beginning on each replica is found by bisection.

The index holds a dictionary for each replica, which is dropped in one step when the replica goes.
A key takes about 100 bytes, so `KEYS_MAX` keys take 25 MB.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from serve_app.core.prefix import PrefixChange, PrefixKeys

KEYS_MAX = 250_000
EXPECTED_S = 2.0
"""How long a Router's own decision counts that its replica has not confirmed."""
_DECISIONS_MAX = 4096


@dataclass(slots=True)
class _Replica:
    """`epoch` names a life of the replica; `version` counts its changes within that life."""

    epoch: int = 0
    version: int = -1
    known: dict[int, int] = field(default_factory=dict)
    expected: dict[int, tuple[int, float]] = field(default_factory=dict)
    """Keys of own decisions: their tokens, and the time until which they count."""


class PrefixIndex:
    """The keys of the replicas of one tier. All methods belong to one thread."""

    def __init__(self, keys_max: int = KEYS_MAX, expected_s: float = EXPECTED_S) -> None:
        self._keys_max = keys_max
        self._expected_s = expected_s
        self._replicas: dict[str, _Replica] = {}
        self._decisions: deque[tuple[float, str, tuple[int, ...]]] = deque()
        self._count = 0

    def __len__(self) -> int:
        """The published keys of all replicas together."""
        return self._count

    def restart(
        self, replica: str, epoch: int, version: int, entries: Iterable[PrefixChange]
    ) -> None:
        """A snapshot: all keys of a replica at this version."""
        self.drop(replica)
        found = self._replicas[replica] = _Replica(epoch, version)
        self._add(found, entries)

    def apply(
        self, replica: str, epoch: int, version: int, changes: Iterable[PrefixChange]
    ) -> bool:
        """The next changes of a replica; False: changes before these are missing, get a snapshot.

        Versions grow by one.
        """
        found = self._replicas.get(replica)
        if found is None or found.epoch != epoch or found.version + 1 != version:
            return False
        found.version = version
        self._add(found, changes)
        return True

    def drop(self, replica: str) -> None:
        """A replica has gone, or its stream is lost."""
        found = self._replicas.pop(replica, None)
        if found is not None:
            self._count -= len(found.known)

    def expect(self, replica: str, keys: PrefixKeys, prompt_tokens: int, now_s: float) -> None:
        """A call goes to a replica, which will soon have its keys."""
        found = self._replicas.setdefault(replica, _Replica())
        until_s = now_s + self._expected_s
        known = found.known
        new = tuple([key for key in keys.keys if key not in known])
        first = len(keys.keys) - len(new)
        for index, key in enumerate(new, first):
            found.expected[key] = (keys.tokens_at(index, prompt_tokens), until_s)
        self._decisions.append((until_s, replica, new))
        self._expire(now_s)

    def match(self, keys: PrefixKeys, now_s: float) -> Mapping[str, int]:
        """The cached tokens of a prompt by replica; replicas without any are left out."""
        self._expire(now_s)
        matched: dict[str, int] = {}
        if not keys.keys:
            return matched
        first = keys.keys[0]
        for name, replica in self._replicas.items():
            if first in replica.known or first in replica.expected:
                matched[name] = _longest(replica, keys.keys)
        return matched

    def _add(self, replica: _Replica, changes: Iterable[PrefixChange]) -> None:
        known, before = replica.known, len(replica.known)
        room = self._keys_max - self._count + before
        for key, tokens in changes:
            replica.expected.pop(key, None)
            if tokens == 0:
                known.pop(key, None)
            elif len(known) < room or key in known:
                known[key] = tokens
        self._count += len(known) - before

    def _expire(self, now_s: float) -> None:
        """Forget the own decisions that no longer count."""
        decisions = self._decisions
        while decisions and (decisions[0][0] <= now_s or len(decisions) > _DECISIONS_MAX):
            until_s, name, keys = decisions.popleft()
            replica = self._replicas.get(name)
            if replica is not None:
                _forget(replica.expected, keys, until_s)


def _forget(expected: dict[int, tuple[int, float]], keys: tuple[int, ...], until_s: float) -> None:
    """Forget keys, unless a later decision expects them for longer."""
    for key in keys:
        found = expected.get(key)
        if found is not None and found[1] <= until_s:
            del expected[key]


def _longest(replica: _Replica, keys: tuple[int, ...]) -> int:
    """The tokens of the longest beginning on a replica that has the first key."""
    known, expected = replica.known, replica.expected
    low, high = 0, len(keys)
    while high - low > 1:
        middle = (low + high) // 2
        if keys[middle] in known or keys[middle] in expected:
            low = middle
        else:
            high = middle
    found = known.get(keys[low])
    return expected[keys[low]][0] if found is None else found
