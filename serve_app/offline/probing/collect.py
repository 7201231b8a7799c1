"""Ask the engines everything that is measured, one engine at a time."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any

import aiohttp

from serve_app.feedback.judge import Language
from serve_app.offline.bench.clocks import Part as CpuPart
from serve_app.offline.bench.clocks import read_clocks, subtract_clocks
from serve_app.offline.probing.asking import Asker
from serve_app.offline.probing.engines import Engine, running
from serve_app.offline.probing.questions import Part, Question
from serve_app.offline.probing.rows import Cost, Row

CONCURRENCY = 32
ROUNDS = 4
"""Of timed calls: each kind in turn, so that a drift of the machine meets all kinds alike."""
TIMED = 40
"""Calls of a kind and round."""
LANGUAGES: Sequence[Language] = ("en", "zh")
_CALL_S = 300.0
_COUNTERS = (
    "vllm:request_inference_time_seconds_sum",
    "vllm:prompt_tokens_total",
    "vllm:generation_tokens_total",
)
_ENGINE_PARTS = (CpuPart.ENGINE_CORE, CpuPart.ENGINE_WORKER, CpuPart.SERVER)

Say = Callable[[str], None]
Job = Callable[[Asker, Question], Awaitable[Any]]


@dataclass(slots=True)
class Collected:
    """What was said of each question, by key and kind; and what it cost."""

    said: dict[str, dict[str, Any]] = field(default_factory=dict)
    costs: list[Cost] = field(default_factory=list)


ANSWER: Mapping[str, Job] = {"answer": lambda asker, question: asker.answer(question)}
POOL: Mapping[str, Job] = {"hidden": lambda asker, question: asker.pool(question)}
FAST_JOBS: Mapping[str, Job] = {
    **ANSWER,
    "first": lambda asker, question: asker.look(question),
    "prompt": lambda asker, question: asker.read(question),
    "knows": lambda asker, question: asker.knows(question),
    "samples": lambda asker, question: asker.sample(question),
}
TIMED_JOBS: Mapping[str, Job] = {
    "one token": lambda asker, question: asker.look(question),
    "prompt_logprobs": lambda asker, question: asker.read(question),
    "P(yes)": lambda asker, question: asker.knows(question),
    "draft of 4": lambda asker, question: asker.answer(question, 4),
    "draft of 16": lambda asker, question: asker.answer(question, 16),
    "whole answer": lambda asker, question: asker.answer(question),
    "samples": lambda asker, question: asker.sample(question),
}


def collect(questions: Sequence[Question], say: Say) -> tuple[Sequence[Row], Sequence[Cost]]:
    """All rows, and what the calls cost.

    Raises:
        BenchFailed: an engine did not start, or did not answer.
    """
    found = Collected({question.key: {} for question in questions})
    with running("fast") as engine:
        asyncio.run(_ask_fast(engine, questions, found, say))
    with running("fast", pooling=True) as engine:
        asyncio.run(_pool(engine, questions, found, say))
    with running("strong") as engine:
        asyncio.run(_ask_strong(engine, questions, found, say))
    return [build_row(question, found.said[question.key]) for question in questions], found.costs


async def _ask_fast(
    engine: Engine, questions: Sequence[Question], found: Collected, say: Say
) -> None:
    await ask_all(engine, questions, FAST_JOBS, found, "fast", say)
    await time_all(engine, _tested(questions), TIMED_JOBS, found, say)


async def _pool(engine: Engine, questions: Sequence[Question], found: Collected, say: Say) -> None:
    await ask_all(engine, questions, POOL, found, "fast", say)
    await time_all(engine, _tested(questions), POOL, found, say)


async def _ask_strong(
    engine: Engine, questions: Sequence[Question], found: Collected, say: Say
) -> None:
    await ask_all(engine, questions, ANSWER, found, "strong", say)
    judged = [question for question in _tested(questions) if _differ(question, found)]
    jobs = _judge_jobs(found)
    await ask_all(engine, judged, jobs, found, "judge", say)
    # A verdict takes as long as thirty looks, so fewer are timed.
    timed = {f"judge, {kind.split()[0]}": jobs[kind] for kind in ("en ab", "zh ab")}
    await time_all(engine, judged[:TIMED], timed, found, say)


def _tested(questions: Sequence[Question]) -> Sequence[Question]:
    return [question for question in questions if question.part is Part.TEST]


def _judge_jobs(found: Collected) -> Mapping[str, Job]:
    """Both languages in both orders."""
    return {
        f"{language} {'ba' if swapped else 'ab'}": partial(_judge, found, language, swapped)
        for language in LANGUAGES
        for swapped in (False, True)
    }


async def _judge(
    found: Collected, language: Language, swapped: bool, asker: Asker, question: Question
) -> tuple[bool, bool] | None:
    """The verdict on fast's and strong's answers, whatever the order in which they were shown."""
    said = found.said[question.key]
    fast, strong = said["fast answer"].text, said["strong answer"].text
    if not swapped:
        return await asker.judge(question, fast, strong, language)
    verdict = await asker.judge(question, strong, fast, language)
    return None if verdict is None else (verdict[1], verdict[0])


def _differ(question: Question, found: Collected) -> bool:
    said = found.said[question.key]
    return bool(said["fast answer"].text != said["strong answer"].text)


async def ask_all(
    engine: Engine,
    questions: Sequence[Question],
    jobs: Mapping[str, Job],
    found: Collected,
    whose: str,
    say: Say,
) -> None:
    places = asyncio.Semaphore(CONCURRENCY)
    async with _session(engine) as session:
        asker = Asker(session, engine.model)

        async def ask(question: Question, kind: str, job: Job) -> None:
            async with places:
                found.said[question.key][f"{whose} {kind}"] = await job(asker, question)

        for kind, job in jobs.items():
            began = time.monotonic()
            await asyncio.gather(*(ask(question, kind, job) for question in questions))
            say(f"{whose}: {kind}: {len(questions)} in {time.monotonic() - began:.0f} s")


async def time_all(
    engine: Engine,
    questions: Sequence[Question],
    jobs: Mapping[str, Job],
    found: Collected,
    say: Say,
) -> None:
    """One call at a time, the kinds by turns, each on questions that it has not had before."""
    meters = {kind: Meter() for kind in jobs}
    async with _session(engine) as session:
        asker = Asker(session, engine.model)
        for begin in range(0, min(len(questions), ROUNDS * TIMED), TIMED):
            chosen = questions[begin : begin + TIMED]
            for kind, job in jobs.items():
                async with session.post("/reset_prefix_cache") as response:
                    response.raise_for_status()
                await meters[kind].run(session, engine, partial(job, asker), chosen)
    for kind, meter in meters.items():
        found.costs.append(meter.sum_up(kind))
        say(str(found.costs[-1]))


@dataclass(slots=True)
class Meter:
    """The times of one kind of call, and what the engine's counters rose by."""

    seconds: list[float] = field(default_factory=list)
    cpu_s: float = 0.0
    counters: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_COUNTERS, 0.0))

    async def run(
        self,
        session: aiohttp.ClientSession,
        engine: Engine,
        job: Callable[[Question], Awaitable[Any]],
        questions: Sequence[Question],
    ) -> None:
        """One call after another."""
        counters, clocks = await _read_counters(session), read_clocks([engine.pid], os.getpid())
        for question in questions:
            began = time.perf_counter()
            await job(question)
            self.seconds.append(time.perf_counter() - began)
        spent = subtract_clocks(read_clocks([engine.pid], os.getpid()), clocks)
        self.cpu_s += sum(spent.parts.get(part, 0.0) for part in _ENGINE_PARTS)
        for name, value in (await _read_counters(session)).items():
            self.counters[name] += value - counters[name]

    def sum_up(self, kind: str) -> Cost:
        """The cost of one call."""
        calls = len(self.seconds)
        engine_s, prompt, output = (self.counters[name] / calls for name in _COUNTERS)
        return Cost(
            kind,
            calls,
            1000 * median(self.seconds),
            1000 * engine_s,
            1000 * self.cpu_s / calls,
            prompt,
            output,
        )


async def _read_counters(session: aiohttp.ClientSession) -> Mapping[str, float]:
    async with session.get("/metrics") as response:
        lines = (await response.text()).splitlines()
    found = dict.fromkeys(_COUNTERS, 0.0)
    for line in lines:
        name = line.partition("{")[0]
        if name in found:
            found[name] += float(line.rpartition(" ")[2])
    return found


def _session(engine: Engine) -> aiohttp.ClientSession:
    timeout = aiohttp.ClientTimeout(total=_CALL_S)
    return aiohttp.ClientSession(engine.url, timeout=timeout)


def build_row(question: Question, said: Mapping[str, Any]) -> Row:
    fast, strong = said["fast answer"], said["strong answer"]
    verdicts = {
        kind.removeprefix("judge "): verdict
        for kind, verdict in said.items()
        if kind.startswith("judge ") and verdict is not None
    }
    return Row(
        key=question.key,
        fast=fast.text,
        fast_right=question.check.passes(fast.text),
        strong=strong.text,
        strong_right=question.check.passes(strong.text),
        logprobs=fast.logprobs,
        first=said["fast first"],
        prompt=said["fast prompt"],
        knows=said["fast knows"],
        hidden=said["fast hidden"],
        samples=said["fast samples"],
        verdicts=verdicts,
    )
