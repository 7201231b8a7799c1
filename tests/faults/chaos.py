"""`make chaos`: random kills under load, and one account of all calls at the end."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.faults.strikes import kill, kill_engine, named
from tests.faults.trial import Subject
from tests.outcomes.account import leaked, left_files
from tests.outcomes.fault_table import FaultRow, make_row, render_table
from tests.outcomes.load import running_load
from tests.serve.service import ROOT, running_service

PAUSE_S = (1.0, 30.0)
"""Between two kills: some strike while the last is not mended, some after."""


Strike = Callable[[Subject], None]
"""Raises AssertionError or psutil's errors if there is nothing to kill just now."""


def kill_kind(kind: str) -> Strike:
    """`kill -9` of one process of a kind."""
    return lambda subject: kill(named(subject, kind)[:1])


def kill_engine_of(tier: str) -> Strike:
    """`kill -9` of the engine of a tier; its replica lives."""
    return lambda subject: kill_engine(subject, tier)


STRIKES: dict[str, Strike] = {
    "replica of fast": kill_kind("ray::ServeReplica:llm:tier-fast"),
    "replica of strong": kill_kind("ray::ServeReplica:llm:tier-strong"),
    "engine of fast": kill_engine_of("fast"),
    "engine of strong": kill_engine_of("strong"),
    "Router": kill_kind("ray::ServeReplica:llm:Router"),
    "controller": kill_kind("ray::ServeController"),
    "HAProxy": kill_kind("haproxy"),
    "proxy actor": kill_kind("ray::HAProxyManager"),
}


def main() -> None:
    options = parse_options()
    print(f"seed {options.seed}, {options.seconds:g} s", flush=True)
    with tempfile.TemporaryDirectory(prefix="serve-app-chaos-") as scratch:
        directory = Path(scratch) / "service"
        with running_service(ROOT / "configs" / "local.yaml", directory) as service:
            square = strike_at_random(Subject(service), options.seconds, options.seed)
    sys.exit(not square)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    return parser.parse_args()


def strike_at_random(subject: Subject, seconds: float, seed: int) -> bool:
    """Kill until the time is over, wait until all is whole, and tell whether all is square."""
    with running_load(subject.service.base_url, seed=seed) as load:
        load.wait_answers(64)
    before = subject.holdings()
    with running_load(subject.service.base_url, seed=seed) as load:
        began_s = time.monotonic()
        struck = keep_striking(subject, seconds, random.Random(seed))
        ended_s = time.monotonic()
        subject.wait_whole(before.processes)
        whole_s = time.monotonic() - ended_s
    after = subject.wait_idle(before)
    leaks, files = leaked(before, after), left_files(before, after)
    row = make_row(f"{struck.total()} random kills", load.account(began_s), leaks, files, whole_s)
    report(row, struck)
    return not (row.wrong or row.leaked)


def keep_striking(subject: Subject, seconds: float, rng: random.Random) -> Counter[str]:
    """Kill one thing after another; how often each was struck."""
    struck: Counter[str] = Counter()
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        name = rng.choice(sorted(STRIKES))
        try:
            STRIKES[name](subject)
        except (psutil.Error, AssertionError):
            time.sleep(PAUSE_S[0])  # It is not back yet.
            continue
        struck[name] += 1
        print(f"{until_s - time.monotonic():4.0f} s left: {name}", flush=True)
        time.sleep(rng.uniform(*PAUSE_S))
    return struck


def report(row: FaultRow, struck: Counter[str]) -> None:
    """The table with one row, and what leaked."""
    kills = ", ".join(f"{count} {name}" for name, count in sorted(struck.items()))
    print(render_table([row], f"Killed: {kills}."))
    for leak in row.leaked:
        print(f"leaked: {leak}")


if __name__ == "__main__":
    main()
