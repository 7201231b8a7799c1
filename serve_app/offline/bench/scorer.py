"""`serve-app bench scorer`: the time to score a prompt, learned and heuristic."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from serve_app.core.call import Prompt, Turn
from serve_app.offline.bench.grids import Grid
from serve_app.offline.bench.journal import append_section, print_report, render_section
from serve_app.offline.bench.machine import describe_machine
from serve_app.offline.bench.options import check_outputs
from serve_app.offline.bench.summary import percentile
from serve_app.routing.learned import LearnedScorer
from serve_app.routing.scorer import HeuristicScorer, Scorer
from serve_app.routing.weights import read_weights

LENGTHS = (50, 300, 2_000, 100_000)
_WIDTH = 120
_WARMUP = 20

# Prose, maths and code as they come: what a scorer meets, and not one sentence over and over.
_TEXTS: Mapping[str, Sequence[str]] = {
    "English": (
        "The committee met on Tuesday to review the budget for the coming year, and it agreed that",
        "most of the savings must come from transport, since rents cannot be reduced before 2027.",
        "If demand grows by 3.5 % a year, how many vehicles are needed to serve all twelve routes?",
        "Explain your reasoning, list the assumptions that you make, and compare both proposals.",
        "Nobody mentioned the river, although the lower meadow had been flooded twice in spring.",
        "A patient with a mild fever returned to the clinic; the physician suspected an infection.",
    ),
    "Chinese": (
        "委员会在星期二开会审查明年的预算，一致认为大部分节省必须来自交通支出，因为租金在两年内无法降低。",
        "如果需求每年增长百分之三点五，那么十二条线路一共需要多少辆车？请列出假设并比较两种方案。",
        "没有人提到那条河，尽管下游的草地在春天已经被淹了两次，居民对此意见很大。",
        "患者发热后再次就诊，医生怀疑是感染，建议进一步检查并记录症状的变化。",
    ),
    "code": (
        "async def fetch(session, url, retries=3):\n    for attempt in range(retries):\n",
        "        async with session.get(url) as got:\n            return await got.json()\n",
        "    except ClientError as error:\n        log.warning('%d: %s', attempt, error)\n",
        "class Cache(Generic[K, V]):\n    def __init__(self, size: int) -> None:\n        pass\n",
        "SELECT customer_id, sum(amount) FROM orders WHERE paid_at >= '2026-01-01' GROUP BY 1;\n",
    ),
}  # fmt: skip


def scorer(
    rounds: Annotated[int, typer.Option(min=100, help="Calls of each scorer per row.")] = 3000,
    log: Annotated[
        Path | None, typer.Option(help="Log file to which a section is appended.")
    ] = None,
) -> None:
    """Time the scorers on the same prompts, alternating, so that other load affects all alike."""
    check_outputs(log)
    machine = describe_machine()
    grid = Grid(
        "Microseconds a prompt, one after another in one thread",
        ("prompt", "scorer", "p50", "p99", "x heuristic (p50)"),
        list(_measure_all(rounds)),
    )
    print_report(Console(width=max(_WIDTH, Console().width)), machine, [grid])
    if log is not None:
        append_section(log, render_section(machine, "serve-app bench scorer", [grid]))


def build_prompt(kind: str, chars: int, number: int) -> Prompt:
    """One user turn of this many characters; another number gives another text."""
    pieces = _TEXTS[kind]
    start = number % len(pieces)
    cycle = f"{number} " + " ".join([*pieces[start:], *pieces[:start]])
    return Prompt(turns=(Turn("user", (cycle * (chars // len(cycle) + 1))[:chars]),))


def build_conversation(kind: str, number: int) -> Prompt:
    """The fifth call of a conversation under a system prompt; only the newest turn is new."""
    earlier = [turn for age in range(4) for turn in build_prompt(kind, 200, age).turns]
    answer = Turn("assistant", "As you wish.")
    said = [turn for ask in earlier for turn in (ask, answer)]
    system = Turn("system", " ".join(_TEXTS[kind]))
    return Prompt(turns=(system, *said, *build_prompt(kind, 200, number + len(earlier)).turns))


def time_scorers(
    scorers: Mapping[str, Scorer], prompt_of: Callable[[int], Prompt], rounds: int
) -> Mapping[str, list[float]]:
    """Seconds of every call, by scorer; `prompt_of` makes the prompt of each round."""
    seconds: dict[str, list[float]] = {name: [] for name in scorers}
    for number in range(rounds + _WARMUP):
        prompt = prompt_of(number)
        for name, one in scorers.items():
            begin = time.perf_counter()
            one.score(prompt)
            taken = time.perf_counter() - begin
            if number >= _WARMUP:
                seconds[name].append(taken)
    return seconds


def _measure_all(rounds: int) -> Iterator[Sequence[str]]:
    learned = LearnedScorer(read_weights())
    # The second call of the same scorer meets what the first one has just seen.
    scorers: Mapping[str, Scorer] = {
        "heuristic (peer)": HeuristicScorer(),
        "learned": learned,
        "learned, text seen before": learned,
    }
    for name, prompt_of in _list_prompts():
        seconds = time_scorers(scorers, prompt_of, rounds)
        base = percentile(seconds["heuristic (peer)"], 0.5)
        for scorer_name, taken in seconds.items():
            p50, p99 = percentile(taken, 0.5), percentile(taken, 0.99)
            yield name, scorer_name, f"{1e6 * p50:.0f}", f"{1e6 * p99:.0f}", f"{p50 / base:.2f}"


def _list_prompts() -> Iterator[tuple[str, Callable[[int], Prompt]]]:
    for chars in LENGTHS:
        for kind in _TEXTS:
            yield f"{kind}, {chars:,} characters", partial(build_prompt, kind, chars)
    for kind in _TEXTS:
        yield f"{kind}, conversation", partial(build_conversation, kind)
