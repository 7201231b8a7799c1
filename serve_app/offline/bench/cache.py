"""`serve-app bench cache`: a running service with its cache of answers, against the same without.

The peer is the same service in the same run, asked with `cache-control: no-store`.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import aiohttp
import typer

from serve_app.offline.bench.grids import Grid
from serve_app.offline.bench.journal import append_section, print_report, render_section
from serve_app.offline.bench.machine import describe_machine
from serve_app.offline.bench.options import check_outputs
from serve_app.offline.bench.results import build_console
from serve_app.offline.bench.summary import percentile, ratio

HIT_RATIO = 0.6
"""The hit rate that guides to self-hosting quote."""
REPEATED = 20
"""Different prompts among the repeated calls."""
NO_STORE = {"cache-control": "no-store"}
DEADLINE_S = 120.0


@dataclass(slots=True)
class Answers:
    """What a run measured: seconds of each call by the result of the cache, and of the whole."""

    seconds: list[tuple[str, float]] = field(default_factory=list)
    whole_s: float = 0.0

    def of(self, result: str) -> list[float]:
        """Seconds of the calls with this result."""
        return [seconds for name, seconds in self.seconds if name == result]

    @property
    def calls_per_s(self) -> float:
        """Calls a second over the whole run."""
        return len(self.seconds) / self.whole_s


class Asker:
    """Sends chat calls to the service, so many at a time."""

    def __init__(
        self, session: aiohttp.ClientSession, url: str, model: str, tokens: int, clients: int
    ) -> None:
        self._session = session
        self._url = f"{url.rstrip('/')}/v1/chat/completions"
        self._model = model
        self._tokens = tokens
        self._clients = clients

    async def run(self, prompts: Sequence[str], headers: dict[str, str]) -> Answers:
        """Send every prompt once."""
        answers, queue = Answers(), iter(prompts)
        begin = time.perf_counter()

        async def client() -> None:
            for prompt in queue:
                answers.seconds.append(await self._ask(prompt, headers))

        await asyncio.gather(*(client() for _ in range(self._clients)))
        answers.whole_s = time.perf_counter() - begin
        return answers

    async def _ask(self, prompt: str, headers: dict[str, str]) -> tuple[str, float]:
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": self._tokens,
            "temperature": 0,
        }
        begin = time.perf_counter()
        async with self._session.post(self._url, json=body, headers=headers) as response:
            await response.read()
            response.raise_for_status()
            return response.headers.get("x-cache", "none"), time.perf_counter() - begin


def cache(
    url: Annotated[
        str, typer.Option(help="A running service whose config has a `cache`.")
    ] = "http://127.0.0.1:8000",
    model: Annotated[str, typer.Option(help="The model to ask.")] = "fast",
    calls: Annotated[int, typer.Option(min=50, help="Calls of each run.")] = 400,
    clients: Annotated[int, typer.Option(min=1, help="Calls at a time.")] = 8,
    tokens: Annotated[int, typer.Option(min=1, help="Longest answer in tokens.")] = 32,
    log: Annotated[
        Path | None, typer.Option(help="Log file to which a section is appended.")
    ] = None,
) -> None:
    """Measure a running service with and without its cache of answers."""
    check_outputs(log)
    machine = describe_machine()
    try:
        grids = asyncio.run(measure(url, model, calls, clients, tokens))
    except aiohttp.ClientError as error:
        raise typer.BadParameter(f"{url} does not answer: {type(error).__name__}") from None
    print_report(build_console(), machine, grids)
    if log is not None:
        append_section(log, render_section(machine, "serve-app bench cache", grids))


async def measure(url: str, model: str, calls: int, clients: int, tokens: int) -> list[Grid]:
    """Latency of hits and misses one at a time, and rates at 60 % hits against no cache."""
    timeout = aiohttp.ClientTimeout(total=DEADLINE_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        single = Asker(session, url, model, tokens, 1)
        fresh = make_prompts(calls // 4, 0.0)
        await single.run(make_prompts(5, 0.0), NO_STORE)
        without, first = await single.run(fresh, NO_STORE), await single.run(fresh, {})
        again = await single.run(fresh, {})
        _check(first, again)
        many = Asker(session, url, model, tokens, clients)
        mixed = make_prompts(calls, HIT_RATIO)
        rate_without = await many.run(mixed, NO_STORE)
        await single.run(sorted(set(mixed), key=mixed.index)[:REPEATED], {})
        rate_with = await many.run(mixed, {})
        rate_again = await many.run(make_prompts(calls, HIT_RATIO), NO_STORE)
    return [
        build_latencies({"no cache": without, "miss": first, "hit": again}),
        build_rates(rate_without, rate_with, rate_again),
    ]


def make_prompts(calls: int, repeated_ratio: float) -> list[str]:
    """Prompts of which this part comes from a few, which every run draws anew."""
    name = secrets.token_hex(4)
    few = [f"{name}: what is {n} plus {n}?" for n in range(REPEATED)]
    repeated = int(calls * repeated_ratio)
    prompts = [few[n % REPEATED] for n in range(repeated)]
    prompts += [f"{name}: what is {n} plus one?" for n in range(calls - repeated)]
    secrets.SystemRandom().shuffle(prompts)
    return few[: REPEATED if repeated else 0] + prompts


def _check(first: Answers, again: Answers) -> None:
    """Fail if the service has no cache, or its cache does not take these calls."""
    if not first.of("miss") or not again.of("hit"):
        results = dict(Counter(name for name, _ in [*first.seconds, *again.seconds]))
        raise typer.BadParameter(f"the service answers without a cache of answers: {results}")


def build_latencies(runs: dict[str, Answers]) -> Grid:
    """Seconds of a call, one call at a time."""
    base = percentile([seconds for _, seconds in runs["no cache"].seconds], 0.5)
    rows = []
    for name, answers in runs.items():
        seconds = [each for _, each in answers.seconds]
        middle = percentile(seconds, 0.5)
        cells = (f"{1000 * middle:.1f}", f"{1000 * percentile(seconds, 0.99):.1f}")
        rows.append((name, *cells, f"{ratio(base, middle):.1f}"))
    header = ("calls", "p50 ms", "p99 ms", "times as fast as no cache")
    return Grid("Whole call, one at a time", header, rows)


def build_rates(without: Answers, with_cache: Answers, again: Answers) -> Grid:
    """Calls a second of the same mix, the peer before and after."""
    peer = (without.calls_per_s + again.calls_per_s) / 2
    rows = []
    for name, run in {"no cache": without, "cache": with_cache, "no cache again": again}.items():
        free = len(run.of("hit")) + len(run.of("shared"))
        cells = (f"{run.calls_per_s:.1f}", f"{ratio(run.calls_per_s, peer):.2f}")
        rows.append((name, f"{100 * free / len(run.seconds):.0f} %", *cells))
    title = f"Calls a second, {100 * HIT_RATIO:.0f} % of them repeated"
    return Grid(title, ("run", "hits", "calls/s", "x no cache"), rows)
