"""What a Router knows of a tier's load."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.leases.load import (
    ENGINE_FRESH_S,
    MEMORY_S,
    EngineLoad,
    EngineLoads,
    EngineTotal,
    FirstTokens,
    parse_engine_load,
)
from serve_app.replica.engine_stats import watch_engine
from tests.leases.replica import Stats


def test_no_news_is_no_estimate() -> None:
    """Before a call, after a call that could not tell, and when the last one was long ago."""
    tokens = FirstTokens()
    assert tokens.estimate(0.0, 0) is None
    tokens.begin("a", 0.0)
    tokens.forget("a")
    assert tokens.estimate(1.0, 0) is None
    tokens.begin("b", 1.0)
    tokens.end("b", 3.0)
    assert tokens.estimate(3.0, 0) == 2.0
    assert tokens.estimate(3.0 + MEMORY_S + 0.1, 0) is None


def test_the_mean_of_the_newest_waits() -> None:
    """Ended calls count for as long as they are news, and only once."""
    tokens = FirstTokens()
    for call, (begun, ended) in enumerate([(0.0, 0.2), (0.1, 0.5)]):
        tokens.begin(call, begun)
        tokens.end(call, ended)
        tokens.end(call, ended + 5)
    assert tokens.estimate(0.6, 0) == pytest.approx(0.3)


def test_a_call_that_waits_still_is_news() -> None:
    """An engine that has stalled is noticed before any call has ended."""
    tokens = FirstTokens()
    tokens.begin("quick", 0.0)
    tokens.end("quick", 0.1)
    tokens.begin("first", 0.2)
    tokens.begin("second", 0.9)
    assert tokens.estimate(1.2, 0) == pytest.approx(1.0)
    tokens.forget("first")
    assert tokens.estimate(1.2, 0) == pytest.approx(0.3)


def test_a_call_that_others_overtake_says_nothing() -> None:
    """A long prompt is slow by itself; that those after it are served shows that it is."""
    tokens = FirstTokens()
    tokens.begin("long", 0.0)
    assert tokens.estimate(1.0, 0) == pytest.approx(1.0)
    tokens.begin("short", 0.9)
    tokens.end("short", 1.0)
    assert tokens.estimate(1.0, 0) == pytest.approx(0.1)
    tokens.begin("next", 1.1)
    assert tokens.estimate(1.6, 0) == pytest.approx(0.5)


def test_a_queue_is_as_long_as_it_takes_to_serve_it() -> None:
    """Ten first tokens in two seconds: a queue of twenty takes four."""
    tokens = FirstTokens()
    for call in range(10):
        tokens.begin(call, call * 0.2)
        tokens.end(call, call * 0.2 + 0.1)
    assert tokens.estimate(1.95, 20) == pytest.approx(4.0)
    assert tokens.estimate(1.95, 0) == pytest.approx(0.1)


def test_the_newest_word_of_each_replica() -> None:
    """It counts until it is old; an engine without a cache says nothing of caches."""
    loads = EngineLoads()
    loads.note(("a", 1), EngineLoad(1, 0, 0.1), 0.0)
    loads.note(("a", 1), EngineLoad(2, 0, 0.2), 1.0)
    loads.note(("b", 1), EngineLoad(3, 1, None), 1.5)
    assert loads.reports(1.6) == [("a:1", 2, 0, 0.2), ("b:1", 3, 1, None)]
    assert loads.total(1.6) == EngineTotal(2, 5, 1, pytest.approx(0.8))
    assert loads.total(1.0 + ENGINE_FRESH_S + 0.1) == EngineTotal(1, 3, 1, None)
    assert loads.reports(9.0) == []
    assert loads.total(9.0) == EngineTotal(0, 0, 0, None)


def test_who_has_told_lately() -> None:
    """Only those that have not need be asked."""
    loads = EngineLoads()
    loads.note(("a", 1), EngineLoad(1, 0, 0.1), 5.0)
    assert loads.told_since(("a", 1), 4.9)
    assert not loads.told_since(("a", 1), 5.0)
    assert not loads.told_since(("b", 1), 0.0)


@given(told=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9), st.floats(0, 1))))
def test_the_sums_are_those_of_the_newest_words(told: list[tuple[int, int, float]]) -> None:
    """However often each replica has told, and whatever it said before."""
    loads = EngineLoads()
    newest = {}
    for replica, running, used in told:
        newest[replica] = (running, used)
        loads.note(("r", replica), EngineLoad(running, 0, used), 1.0)
    total = loads.total(1.0)
    assert (total.replicas, total.running) == (len(newest), sum(r for r, _ in newest.values()))
    if newest:
        free = 1 - sum(used for _, used in newest.values()) / len(newest)
        assert total.kv_free_ratio == pytest.approx(free, abs=1e-9)


@given(
    running=st.integers(0, 10_000),
    queued=st.integers(0, 10_000),
    used=st.none() | st.integers(0, 10_000).map(lambda n: n / 10_000),
)
def test_a_load_survives_its_header(running: int, queued: int, used: float | None) -> None:
    """What the replica writes, the Router reads."""
    load = EngineLoad(running, queued, used)
    assert parse_engine_load(load.render()) == load


@pytest.mark.parametrize("value", [b"", b"1 2", b"1 2 x", b"a b c", b"1 2 3 4"])
def test_a_strange_header_is_no_load(value: bytes) -> None:
    """Nothing is made of what was not understood."""
    assert parse_engine_load(value) is None


def test_the_engine_is_listened_to() -> None:
    """The newest numbers of all its cores, added up; the cache as the mean."""
    client = SimpleNamespace(logger_manager=SimpleNamespace(stat_loggers=[]))
    stats = watch_engine(client)
    assert stats is not None
    assert client.logger_manager.stat_loggers == [stats]
    assert stats.read() is None
    stats.record(Stats(5, 5, 0.9), None)
    stats.record(None, None, mm_cache_stats=None, engine_idx=0)
    stats.record(Stats(1, 0, 0.2), None, mm_cache_stats=None, engine_idx=0)
    stats.record(Stats(2, 3, 0.6), None, mm_cache_stats=None, engine_idx=1)
    assert stats.read() == EngineLoad(3, 3, pytest.approx(0.4))


@pytest.mark.parametrize("client", [None, SimpleNamespace(logger_manager=None)])
def test_an_engine_without_statistics(client: object) -> None:
    """It serves all the same."""
    assert watch_engine(client) is None
