"""The choice of a replica by expected seconds."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from serve_app.leases.prefix_cost import (
    NEAR_RATIO,
    NEAR_S,
    NO_LOAD,
    OwnChoices,
    ReplicaLoad,
    expected_s,
    rank,
)

loads = st.builds(
    ReplicaLoad,
    pending_tokens=st.integers(0, 10**6),
    prefill_tokens_per_s=st.floats(100, 1e5),
    running=st.integers(0, 256),
    trust_ratio=st.floats(0, 1),
)
tokens = st.integers(0, 10**6)


def choose(
    loads: dict[str, ReplicaLoad], cached: dict[str, int], prompt_tokens: int, seed: int = 0
) -> str:
    return rank(loads, cached, {}, prompt_tokens, random.Random(seed))[0].replica


@given(loads, tokens, tokens, tokens)
def test_cached_tokens_never_cost(load: ReplicaLoad, prompt: int, one: int, other: int) -> None:
    """More cached tokens mean fewer seconds, and none below zero."""
    less, more = sorted((one, other))
    assert expected_s(load, prompt, less) >= expected_s(load, prompt, more) >= 0


@given(loads, tokens, tokens)
def test_work_before_a_call_costs(load: ReplicaLoad, prompt: int, own: int) -> None:
    """Tokens that this Router has just sent there count as the reported ones."""
    assert expected_s(load, prompt, 0, own) >= expected_s(load, prompt, 0)


@given(st.dictionaries(st.text(), loads, max_size=8), tokens, st.integers())
def test_every_replica_is_ranked_once(
    replicas: dict[str, ReplicaLoad], prompt: int, seed: int
) -> None:
    """The first is near the best, the others follow by their cost."""
    ranked = rank(replicas, {}, {}, prompt, random.Random(seed))
    assert sorted(one.replica for one in ranked) == sorted(replicas)
    if ranked:
        best_s = min(one.cost_s for one in ranked)
        assert ranked[0].cost_s <= (1 + NEAR_RATIO) * best_s + NEAR_S


def test_a_cached_prompt_is_worth_a_wait_but_no_long_one() -> None:
    """The cached replica wins until the work before the call takes thrice as long as what it
    saves."""
    cached = {"warm": 8000}
    busy = ReplicaLoad(pending_tokens=20_000)
    assert choose({"warm": busy, "cold": NO_LOAD}, cached, 8100) == "warm"
    busier = ReplicaLoad(pending_tokens=28_000)
    assert choose({"warm": busier, "cold": NO_LOAD}, cached, 8100) == "cold"


def test_a_replica_that_promises_too_much_is_believed_less() -> None:
    """Its cached tokens count by its trust ratio."""
    doubtful = ReplicaLoad(pending_tokens=6000, trust_ratio=0.1)
    assert choose({"warm": doubtful, "cold": NO_LOAD}, {"warm": 8000}, 8100) == "cold"


def test_chance_decides_between_equal_replicas() -> None:
    """Many Routers with the same reports do not all choose one replica."""
    replicas = dict.fromkeys("abcd", NO_LOAD)
    chosen = {choose(replicas, {}, 1000, seed) for seed in range(64)}
    assert chosen == set("abcd")


def test_own_choices_count_until_reports_show_them() -> None:
    """After the age of a report they would count twice."""
    own = OwnChoices(unseen_s=0.2)
    own.note("a", 100, 0.0)
    own.note("a", 50, 0.1)
    own.note("b", 7, 0.1)
    assert dict(own.tokens(0.15)) == {"a": 150, "b": 7}
    assert dict(own.tokens(0.25)) == {"a": 50, "b": 7}
    assert dict(own.tokens(0.5)) == {}


def test_a_prompt_that_seems_all_cached_is_no_debt() -> None:
    """A prompt that was estimated shorter than its cached beginning makes no replica look free."""
    own = OwnChoices()
    own.note("a", -300, 0.0)
    own.note("a", 0, 0.0)
    assert dict(own.tokens(0.1)) == {}
    assert rank({"a": NO_LOAD}, {"a": 800}, own.tokens(0.1), 500, random.Random(0))
    assert dict(own.tokens(1)) == {}


def test_a_busy_fleet_saves_more_work() -> None:
    """Where every replica makes a call wait, a warm replica is worth a longer wait."""
    warm, cold = ReplicaLoad(pending_tokens=50_000), ReplicaLoad(pending_tokens=10_000)
    assert choose({"warm": warm, "cold": cold}, {"warm": 8000}, 8100) == "warm"
    idle = ReplicaLoad(pending_tokens=40_000)
    assert choose({"warm": idle, "cold": NO_LOAD}, {"warm": 8000}, 8100) == "cold"
