"""A replica's table of what its engine has cached."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.prefix import PrefixChange, PrefixKeys, prefix_keys
from serve_app.replica.prefix_table import PrefixTable, Reading
from tests.replica.block_cache import BlockCache

BLOCK = 16
paths = st.lists(st.sampled_from("abc"), min_size=1, max_size=6).map("".join)
"""A prompt: one letter for each 512 bytes, so that many prompts share beginnings."""
steps = st.lists(st.tuples(st.sampled_from(["begin", "admit", "end"]), paths), max_size=60)


def text(path: str) -> bytes:
    return b"".join([letter.encode() * 512 for letter in path])


def keys(path: str) -> PrefixKeys:
    return prefix_keys([text(path)])


def read(table: PrefixTable, path: str, cached_tokens: int = 0, output_tokens: int = 0) -> None:
    """One call from its beginning to its end; a token is a byte."""
    reading = table.begin(keys(path))
    table.admit(reading, 512 * len(path), cached_tokens)
    table.end(reading, output_tokens)


class Replay:
    """Makes random calls, and keeps what a subscriber would know."""

    def __init__(self, table: PrefixTable) -> None:
        self.table = table
        self.known: dict[int, int] = {}
        self.open: list[Reading] = []

    def step(self, action: str, path: str) -> None:
        if action == "begin":
            self.open.append(self.table.begin(keys(path)))
        elif self.open and action == "admit":
            reading = self.open[len(path) % len(self.open)]
            self.table.admit(reading, 2 * reading.keys.size_bytes, 0)
        elif self.open:
            self.table.end(self.open.pop(len(path) % len(self.open)), len(path))
        self.hear(self.table.drain())

    def hear(self, changes: list[PrefixChange] | None) -> None:
        assert changes is not None
        for key, tokens in changes:
            if tokens:
                self.known[key] = tokens
            else:
                del self.known[key]


@given(steps)
def test_whoever_follows_the_changes_knows_the_table(actions: list[tuple[str, str]]) -> None:
    """Changes and snapshots tell the same, through evictions and calls that end early."""
    replay = Replay(PrefixTable(6000, keys_max=40))
    for action, path in actions:
        replay.step(action, path)
        told = {key: abs(tokens) for key, tokens in replay.table.snapshot()}
        assert replay.known.keys() == told.keys()
        assert len(replay.table) <= 40
        assert replay.table.used_tokens >= 0


@given(steps)
def test_after_the_last_call_the_table_is_within_its_bounds(
    actions: list[tuple[str, str]],
) -> None:
    """Only running calls may hold more than the capacity, and no call holds anything for ever."""
    table = PrefixTable(3000, keys_max=40)
    replay = Replay(table)
    for action, path in actions:
        replay.step(action, path)
    for reading in replay.open:
        table.end(reading)
        table.end(reading)
    assert table.used_tokens <= 3000
    table.clear()
    assert (len(table), table.used_tokens, table.snapshot()) == (0, 0, [])


@given(st.lists(paths, min_size=1, max_size=40), st.integers(3200, 12_000))
def test_the_table_follows_the_engines_cache(prompts: list[str], capacity_tokens: int) -> None:
    """For calls one after another, the prediction is the engine's count but for the last key's
    and the last block's tokens."""
    table = PrefixTable(capacity_tokens, block_tokens=BLOCK)
    engine = BlockCache(capacity_tokens // BLOCK, BLOCK)
    for path in prompts:
        predicted = table.predict(keys(path))
        cached = engine.read(text(path))
        read(table, path, cached)
        # Keys are 256 tokens apart here, and whole keys are evicted at once.
        assert abs(predicted - cached) <= 256 + BLOCK or len(prompts) == 1


def test_a_call_is_known_from_its_beginning() -> None:
    """A call that follows at once finds the keys of the call before it, tokens by the estimate."""
    table = PrefixTable(100_000)
    table.begin(keys("ab"))
    assert table.predict(keys("abc")) > 200
    assert table.used_tokens == 0


def test_a_call_that_was_never_read_leaves_nothing() -> None:
    """Unless another call waits for the same keys."""
    table = PrefixTable(100_000)
    first, second = table.begin(keys("ab")), table.begin(keys("a"))
    table.end(first)
    assert len(table) == len(keys("a").keys)
    table.end(second)
    assert len(table) == 0


def test_the_engines_count_sets_the_tokens_of_keys() -> None:
    """The estimate of tokens a byte gives way to the prompt's real number of tokens."""
    table = PrefixTable(100_000)
    read(table, "ab")
    assert table.predict(keys("ab")) == 1024
    assert {tokens for _, tokens in table.drain() or ()} == {256, 512, 768, 1024}


def test_the_oldest_conversation_is_evicted_from_its_end() -> None:
    """The beginning stays longest, as in the engine."""
    table = PrefixTable(2048)
    read(table, "ab")
    read(table, "bc")
    read(table, "c")
    assert (table.predict(keys("ab")), table.predict(keys("bc"))) == (512, 1024)


def test_a_running_call_is_not_evicted() -> None:
    """Its blocks are in use, however many calls come meanwhile."""
    table = PrefixTable(2048)
    running = table.begin(keys("ab"))
    table.admit(running, 1024, 0)
    read(table, "bc")
    read(table, "ca")
    assert table.predict(keys("ab")) == 1024
    table.end(running)
    read(table, "cb")
    read(table, "b")
    assert table.predict(keys("ab")) < 1024


def test_answers_take_room_until_they_are_read_again() -> None:
    """The tokens of an answer are cached; the next turn finds them under keys of its own."""
    table = PrefixTable(100_000)
    read(table, "a", output_tokens=512)
    assert table.used_tokens == 1024
    read(table, "ab", cached_tokens=1000)
    assert table.used_tokens == 1024


def test_trust_follows_the_engines_counts() -> None:
    """An engine that has cached less than promised makes the promises count for less."""
    table = PrefixTable(100_000)
    assert table.trust_ratio == 1
    for _ in range(60):
        read(table, "ab", cached_tokens=0)
    assert table.trust_ratio < 0.2
    for _ in range(60):
        read(table, "ab", cached_tokens=1008)
    assert table.trust_ratio > 0.8


def test_admitting_tells_the_error() -> None:
    """More tokens than promised are positive."""
    table = PrefixTable(100_000)
    read(table, "ab")
    reading = table.begin(keys("ab"))
    assert table.admit(reading, 1024, 512) == -512
    assert table.admit(reading, 1024, 512) == 0


def test_a_table_that_nobody_follows_keeps_few_changes() -> None:
    """After as many changes as keys, a snapshot is asked for, and changes begin again."""
    table = PrefixTable(1000, keys_max=20)
    for number in range(40):
        reading = table.begin(prefix_keys([bytes([number]) * 512]))
        table.admit(reading, 512, 0)
        table.end(reading)
    assert table.drain() is None
    assert table.drain() == []
