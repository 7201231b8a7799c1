"""The evidence of docs/routing.md, measured anew: table, picture, and how long each part took.

    PYTHONPATH=.:tools python tools/evidence.py DIRECTORY

It serves `configs/local.yaml` with feedback, asks a thousand questions as `auto`, waits for their
labels, learns, and asks the test set of each model and of `auto` with the shipped weights, with
those that were learnt, and as a cascade. DIRECTORY keeps all answers; a part that is there already
is not repeated. Nothing else may listen on port 8000.
"""

from __future__ import annotations

import argparse
import copy
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import yaml
from rich.console import Console

from serve_app.offline.demo.testset import TESTSET
from serve_app.offline.evaluate.answers import ANSWERS_FILE, SETTINGS_FILE, GradedAnswer, Settings
from serve_app.offline.evaluate.dataset import read_dataset
from serve_app.offline.evaluate.evaluation_report import print_report
from serve_app.offline.evaluate.picture import draw_picture
from serve_app.offline.evaluate.summary import Summary, summarize

CONFIG = Path("configs/local.yaml")
BASE_URL = "http://127.0.0.1:8000"
TRAFFIC_SEEDS = ("21", "22", "23")
CALLS = 1000
START_S = 600.0
LABELS_S = 1200.0
POLL_S = 2.0
SHIPPED, LEARNT, CASCADE = "auto, shipped", "auto, learnt", "cascade"


def main() -> None:
    """Measure, print the table, and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    directory = parser.parse_args().directory.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    measure(directory)
    summary = merge(directory)
    draw_picture(summary, directory / "routing-evidence.png")
    print_report(Console(width=120), summary)


def measure(directory: Path) -> None:
    """Every part that `directory` does not hold yet."""
    traffic, feedback = directory / "traffic.jsonl", directory / "feedback"
    weights = directory / "learnt.safetensors"
    if not traffic.exists():
        run(
            "-m",
            "serve_app.offline.demo.testset",
            "--seed",
            *TRAFFIC_SEEDS,
            *not_in_testset(traffic),
        )
    learning = write_config(directory / "learning.yaml", {"feedback": feedback_section(feedback)})
    with serving(learning):
        if not weights.exists():
            evaluate(traffic, directory / "traffic", "auto", "--limit", str(CALLS))
            wait_for_labels(feedback)
            cli("learn", str(feedback), "--out", str(weights))
        # Without feedback from here on: nothing may learn from the test set.
        for name, routing in ways_to_route(weights).items():
            cli("reload", str(write_config(directory / f"{name}.yaml", {"routing": routing})))
            models = "fast,strong,auto" if name == SHIPPED else "auto"
            evaluate("demo", directory / name, models)


def ways_to_route(weights: Path) -> Mapping[str, Mapping[str, Any]]:
    """The changes to the section `routing`."""
    return {SHIPPED: {}, LEARNT: {"weights": str(weights)}, CASCADE: {"policy": "cascade"}}


def not_in_testset(out: Path) -> tuple[str, ...]:
    """The arguments that keep the test set out of the traffic."""
    return ("--without", str(TESTSET), "--out", str(out))


def feedback_section(directory: Path) -> Mapping[str, Any]:
    """Keep and label every call."""
    ratios = {"sample_ratio": 1, "consent": "assumed", "pending_max": 2 * CALLS, "concurrency": 4}
    return {"directory": str(directory), **ratios}


def write_config(path: Path, changes: Mapping[str, Mapping[str, Any]]) -> Path:
    """The local config with changes to sections of the Router's `user_config`."""
    document = copy.deepcopy(yaml.safe_load(CONFIG.read_text()))
    [application] = document["applications"]
    [router] = [one for one in application["deployments"] if one["name"] == "Router"]
    for section, values in changes.items():
        router["user_config"][section] = {**router["user_config"].get(section, {}), **values}
    path.write_text(yaml.safe_dump(document))
    return path


@contextmanager
def serving(config: Path) -> Iterator[None]:
    """`serve-app up` until the block ends."""
    process = subprocess.Popen([sys.executable, "-m", "serve_app.cli.main", "up", str(config)])
    try:
        wait_until(
            lambda: process.poll() is not None or is_ready(), START_S, "the service is ready"
        )
        if process.poll() is not None:
            sys.exit(f"the service ended with {process.returncode}")
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def is_ready() -> bool:
    """Whether every tier answers."""
    try:
        return httpx.get(f"{BASE_URL}/ready", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def wait_until(condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Poll until it is true.

    Raises:
        TimeoutError: it is not in time.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout_s:g} s: {what}")
        time.sleep(POLL_S)


def wait_for_labels(directory: Path) -> None:
    """Until no call waits for its label."""

    def are_there() -> bool:
        kinds = [json.loads(line)["kind"] for line in read_lines(directory)]
        return 0 < kinds.count("call") <= kinds.count("label")

    wait_until(are_there, LABELS_S, "every call has a label")


def read_lines(directory: Path) -> Iterator[str]:
    """The whole lines of the log."""
    for path in sorted(directory.glob("*.jsonl")):
        yield from path.read_text().rpartition("\n")[0].splitlines()


def evaluate(dataset: Path | str, directory: Path, models: str, *arguments: str) -> None:
    """Ask the questions, and say how long it took."""
    began = time.monotonic()
    cli("evaluate", str(dataset), "--models", models, "--out", str(directory), *arguments)
    print(f"{directory.name}: {time.monotonic() - began:.0f} s", file=sys.stderr)


def merge(directory: Path) -> Summary:
    """One summary of all parts; each way to route stands as a model of its own."""
    answers = [
        replace(answer, model=name if answer.model == "auto" else answer.model)
        for name in (SHIPPED, LEARNT, CASCADE)
        for answer in read_answers(directory / name)
    ]
    settings = Settings(**json.loads((directory / SHIPPED / SETTINGS_FILE).read_text()))
    models = ["fast", "strong", SHIPPED, LEARNT, CASCADE]
    return summarize(read_dataset(TESTSET), models, "strong", settings, answers)


def read_answers(directory: Path) -> Iterator[GradedAnswer]:
    """The answers of one evaluation."""
    for line in (directory / ANSWERS_FILE).read_text().splitlines():
        yield GradedAnswer(**json.loads(line))


def cli(*arguments: str) -> None:
    """A command of `serve-app`."""
    run("-m", "serve_app.cli.main", *arguments)


def run(*arguments: str) -> None:
    """A program of Python's."""
    subprocess.run([sys.executable, *arguments], check=True)


if __name__ == "__main__":
    main()
