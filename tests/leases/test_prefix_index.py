"""A Router's index of the replicas' prefix caches."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.prefix import PrefixChange, PrefixKeys, prefix_keys
from serve_app.leases.prefix_index import PrefixIndex

paths = st.lists(st.sampled_from("ab"), min_size=1, max_size=6).map("".join)


def keys(path: str) -> PrefixKeys:
    """One key for each letter: a letter is 256 bytes."""
    return prefix_keys([letter.encode() * 256 for letter in path])


def changes(path: str, *, held: bool = True) -> list[PrefixChange]:
    found = enumerate(keys(path).keys, 1)
    return [PrefixChange(key, 64 * number if held else 0) for number, key in found]


@given(
    st.dictionaries(st.sampled_from(["r1", "r2", "r3"]), st.lists(paths, max_size=4)),
    paths,
)
def test_the_longest_beginning_counts(held: dict[str, list[str]], asked: str) -> None:
    """The index finds on each replica what a search through all its prompts finds."""
    index = PrefixIndex()
    for replica, prompts in held.items():
        index.restart(replica, 1, 0, [one for path in prompts for one in changes(path)])
    wanted = {
        replica: 64 * max(shared(path, asked) for path in prompts)
        for replica, prompts in held.items()
        if any(shared(path, asked) for path in prompts)
    }
    assert index.match(keys(asked), 0) == wanted


def shared(one: str, other: str) -> int:
    """The letters at the beginning of both."""
    return next(n for n in range(min(len(one), len(other)), -1, -1) if one[:n] == other[:n])


@given(st.lists(st.tuples(st.sampled_from(["r1", "r2"]), paths, st.booleans()), max_size=40))
def test_the_number_of_keys_is_right_and_bounded(told: list[tuple[str, str, bool]]) -> None:
    """Keys beyond the bound are ignored; dropping every replica leaves nothing."""
    index = PrefixIndex(keys_max=9)
    versions = {"r1": 0, "r2": 0}
    for replica in versions:
        index.restart(replica, 1, 0, [])
    for replica, path, held in told:
        versions[replica] += 1
        assert index.apply(replica, 1, versions[replica], changes(path, held=held))
        assert len(index) <= 9
    index.drop("r1")
    index.drop("r2")
    index.drop("r2")
    assert len(index) == 0


def test_changes_that_leave_a_gap_are_refused() -> None:
    """After a lost change, another life, or without a snapshot, a snapshot must come first."""
    index = PrefixIndex()
    assert not index.apply("r1", 1, 0, changes("a"))
    index.restart("r1", 1, 4, [])
    assert not index.apply("r1", 1, 6, changes("a"))
    assert not index.apply("r1", 2, 5, changes("a"))
    assert index.apply("r1", 1, 5, changes("a"))
    assert index.match(keys("a"), 0) == {"r1": 64}


def test_a_restart_forgets_what_was_known() -> None:
    """A replica that starts again has an empty cache."""
    index = PrefixIndex()
    index.restart("r1", 1, 0, changes("ab"))
    index.restart("r1", 2, 0, changes("b"))
    assert index.match(keys("ab"), 0) == {}
    assert len(index) == 1


def test_own_decisions_count_until_they_are_confirmed() -> None:
    """The next call of a conversation follows the first before its replica reports."""
    index = PrefixIndex(expected_s=2)
    index.restart("r1", 1, 0, changes("a"))
    index.expect("r1", keys("ab"), 200, now_s=10)
    assert index.match(keys("abb"), 10.5) == {"r1": 200}
    assert index.match(keys("abb"), 12) == {"r1": 64}
    index.expect("r1", keys("ab"), 200, now_s=20)
    index.apply("r1", 1, 1, changes("ab"))
    assert index.match(keys("abb"), 25) == {"r1": 128}


def test_a_replicas_word_ends_an_own_decision() -> None:
    """A key that the replica has dropped no longer counts as expected."""
    index = PrefixIndex()
    index.restart("r1", 1, 0, changes("a"))
    index.expect("r1", keys("ab"), 200, now_s=0)
    index.apply("r1", 1, 1, [PrefixChange(keys("ab").keys[1], 0)])
    assert index.match(keys("ab"), 0.5) == {"r1": 64}


def test_a_later_decision_keeps_keys_for_longer() -> None:
    """The end of one expectation does not end that of a later call."""
    index = PrefixIndex(expected_s=2)
    index.expect("r1", keys("a"), 64, now_s=0)
    index.expect("r1", keys("a"), 64, now_s=1)
    assert index.match(keys("a"), 2.5) == {"r1": 64}
    assert index.match(keys("a"), 3) == {}


def test_a_prompt_without_keys_matches_nowhere() -> None:
    """Short prompts are chosen for by load alone."""
    index = PrefixIndex()
    index.restart("r1", 1, 0, changes("ab"))
    assert index.match(prefix_keys([b"hello"]), 0) == {}
