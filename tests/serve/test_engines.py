"""Engine keys of docs/engines.md that need no service around them, on the CPU engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from serve_app import demo
from tests.serve.offline import ANSWERS
from tests.serve.quantised import write_awq
from tests.serve.service import ROOT

pytestmark = pytest.mark.serve

CPU = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "HF_HUB_OFFLINE": "1",
    # The engine and its worker in the test's own process: vLLM is imported once, not three times.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # `enforce_eager` leaves parts of the sampler compiled, which takes seconds.
    "TORCH_COMPILE_DISABLE": "1",
}
QUESTIONS = {"What is the capital of France?": "Paris", "What is 17 + 25?": "42"}


class Asked:
    """Questions to an engine in a process of its own, which answers while others start."""

    def __init__(
        self, directory: Path, model: Path, engine: dict[str, Any], *prompts: str, **sampling: Any
    ) -> None:
        arguments = [str(model), json.dumps(engine), json.dumps(sampling), *prompts]
        self._output, self._log = directory / "output", directory / "log"
        with self._output.open("wb") as output, self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.serve.offline", *arguments],
                cwd=ROOT,
                env={**os.environ, **CPU},
                stdout=output,
                stderr=log,
            )

    def answers(self) -> list[str]:
        """What the model answers to the questions."""
        assert self._process.wait(300) == 0, self._log.read_text()[-4000:]
        lines = self._output.read_text().splitlines()
        (line,) = (line for line in lines if line.startswith(ANSWERS))
        answers: list[str] = json.loads(line.removeprefix(ANSWERS))
        return answers

    def end(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.wait()


def ask_fewer_bits(directory: Path) -> Asked:
    """4-bit weights, an FP8 KV cache and the small model as a draft."""
    draft = {"model": str(demo.locate("fast")), "num_speculative_tokens": 3}
    engine = {
        "enforce_eager": True,
        "max_model_len": 1024,
        "kv_cache_dtype": "fp8",
        "speculative_config": draft,
    }
    return Asked(directory, write_awq("strong", directory / "awq"), engine, *QUESTIONS)


def ask_for_thoughts(directory: Path) -> Asked:
    """A prompt whose thoughts are open, and one without."""
    engine = {"enforce_eager": True, "max_model_len": 1024, "reasoning_parser": "qwen3"}
    [question, *_] = QUESTIONS
    prompts = (f"{question}<think>", question)
    sampling = {"thinking_token_budget": 12, "skip_special_tokens": False}
    return Asked(directory, demo.locate("fast"), engine, *prompts, **sampling)


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Asked]]:
    """All engines of this module, started side by side."""
    starts: dict[str, Callable[[Path], Asked]] = {
        "fewer bits": ask_fewer_bits,
        "thoughts": ask_for_thoughts,
    }
    with ExitStack() as stack:
        started: dict[str, Asked] = {}
        for name, start in starts.items():
            started[name] = start(tmp_path_factory.mktemp("engine"))
            stack.callback(started[name].end)
        yield started


def test_fewer_bits_still_know(asked: dict[str, Asked]) -> None:
    """4-bit weights, an FP8 KV cache and the small model as a draft, all at once."""
    answers = asked["fewer bits"].answers()
    for text, wanted in zip(answers, QUESTIONS.values(), strict=True):
        assert wanted in text


def test_a_budget_ends_the_thoughts(asked: dict[str, Asked]) -> None:
    """Only a prompt whose thoughts are open has them closed, when so many tokens are spent."""
    open_, none = asked["thoughts"].answers()
    assert open_.count("</think>") == 1
    assert "</think>" not in none
