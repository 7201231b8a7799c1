"""A batch beside chat on one engine, by a clock that only the engine's work moves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from serve_app.offline.bench.batch_beside_chat import BATCH, BOTH, CHAT, build_grid
from serve_app.offline.bench.batch_in_engine import (
    AT_ONCE,
    EngineKind,
    open_driver,
    run_engine,
)
from serve_app.offline.bench.engine_clock import EngineDriver, EngineLoad
from serve_app.offline.bench.engine_roofline import RooflineEngine
from serve_app.offline.bench.summary import percentile
from serve_app.offline.simulation.engine import EngineTiming

LOAD = EngineLoad(calls_per_s=2.0, lines=4, seconds=30.0, chat_tokens=3, line_tokens=5)


class FakeEngine:
    """Writes a token of each call in each step, which takes 10 ms and 1 ms more for each call."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self._left: dict[str, tuple[int, int]] = {}
        self.ranks: list[int] = []
        self.prompts: list[str] = []
        self.running_max = 0

    @property
    def busy(self) -> bool:
        return bool(self._left)

    def add(self, call_id: str, prompt: str, tokens: int, rank: int) -> None:
        self._left[call_id] = (0, tokens)
        self.ranks.append(rank)
        self.prompts.append(prompt)

    def step(self) -> Mapping[str, tuple[int, bool]]:
        self.running_max = max(self.running_max, len(self._left))
        self.now_s += 0.01 + 0.001 * len(self._left)
        told = {name: (done + 1, done + 1 == of) for name, (done, of) in self._left.items()}
        self._left = {
            name: (done + 1, of) for name, (done, of) in self._left.items() if done + 1 < of
        }
        return told

    def drop_all(self) -> None:
        self._left.clear()


def drive(load: EngineLoad) -> tuple[FakeEngine, list[float], int, int]:
    engine = FakeEngine()
    written = EngineDriver(engine, lambda: engine.now_s).run(load)
    return engine, written.first_s, written.chat_tokens, written.line_tokens


def test_calls_alone_find_an_idle_engine() -> None:
    """The clock leaps over idle time, and a first token takes the step of its call."""
    engine, first_s, chat, lines = drive(replace(LOAD, lines=0))
    assert engine.now_s - 100.0 < LOAD.seconds / 4
    assert min(first_s) == pytest.approx(0.011)
    assert (chat, lines) == (3 * len(first_s), 0)
    assert 40 <= len(first_s) <= 80
    assert len(set(engine.prompts)) == len(engine.prompts)


def test_lines_are_always_there_and_come_last() -> None:
    """As many at a time as the load says, each with the rank of a batch."""
    engine, first_s, chat, lines = drive(replace(LOAD, calls_per_s=0.0))
    assert (engine.running_max, set(engine.ranks)) == (4, {100})
    assert (first_s, chat) == ([], 0)
    assert lines > 4 * 2000


def test_a_call_waits_for_the_step_that_it_comes_in() -> None:
    """That is what it loses beside lines, and lines lose what it takes."""
    _, alone_s, _, _ = drive(replace(LOAD, lines=0))
    engine, first_s, chat, lines = drive(LOAD)
    assert sum(first_s) / len(first_s) > sum(alone_s) / len(alone_s)
    assert chat
    assert lines
    assert {0, 100} == set(engine.ranks)


def test_the_phases_are_compared_in_one_table() -> None:
    """With lines held back and without, against each alone."""
    engine = FakeEngine()
    driver = EngineDriver(engine, lambda: engine.now_s)
    shares = list(run_engine(driver, LOAD, 2))
    assert [share.kind for share in shares] == [CHAT, BATCH, BOTH, AT_ONCE] * 2
    assert [row[0] for row in build_grid(shares).rows] == [CHAT, BATCH, BOTH, AT_ONCE]


TIMING = EngineTiming(
    weights_s=0.01,
    token_s=0.001,
    context_token_s=0.0,
    overhead_s=0.0,
    chunk_tokens=0,
    kv_tokens=0,
    sequences_max=2,
)


def test_a_simulated_step_reads_and_writes_as_vllm_does() -> None:
    """Running calls first, then the rest of the budget for the lowest rank; two at a time."""
    engine = RooflineEngine(TIMING, batched_tokens=100)
    engine.add("line", "word " * 150, 2, 100)
    engine.add("late", "word", 1, 100)
    assert engine.step() == {}
    assert engine.now_s == pytest.approx(0.1)
    engine.add("call", "word " * 80, 1, 0)
    assert engine.step() == {"line": (1, False)}
    assert engine.step() == {"line": (2, True), "call": (1, True)}
    assert engine.now_s == pytest.approx(0.1 + 0.1 + 0.031)
    assert engine.step() == {"late": (1, True)}
    assert engine.now_s == pytest.approx(0.231 + 0.01)
    assert not engine.busy


@pytest.mark.parametrize("kind", [EngineKind.SMALL, EngineKind.LARGE])
def test_a_simulated_engine_is_driven_like_a_real_one(kind: EngineKind) -> None:
    """Clients wait for the prompts of lines, and far less where lines begin one by one."""
    load = replace(
        LOAD,
        calls_per_s=1.0,
        seconds=200.0,
        lines=16,
        chat_tokens=256,
        line_tokens=256,
        chat_words=1000,
        line_words=1000,
    )
    shares = {share.kind: share for share in run_engine(open_driver(kind, 2048), load, 1)}
    alone, spare, at_once = (
        percentile(shares[kind].first_s, 0.95) for kind in (CHAT, BOTH, AT_ONCE)
    )
    assert spare < 1.5 * alone
    assert at_once > spare
    assert shares[BOTH].tokens_per_s > 0.9 * shares[BATCH].tokens_per_s
