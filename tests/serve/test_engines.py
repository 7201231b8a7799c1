"""Engine keys of docs/engines.md that need no service around them, on the CPU engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from serve_app import demo
from serve_app.deploy.engine_args import check_engine_args
from tests.serve.offline import ANSWERS
from tests.serve.quantised import write_awq
from tests.serve.service import ROOT

pytestmark = pytest.mark.serve

CPU = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "HF_HUB_OFFLINE": "1",
}
QUESTIONS = {"What is the capital of France?": "Paris", "What is 17 + 25?": "42"}


def answer(
    model: Path, engine: dict[str, Any], prompts: Iterable[str] = QUESTIONS, **sampling: Any
) -> list[str]:
    """What the model answers to the questions."""
    check_engine_args("tested", engine)
    arguments = [str(model), json.dumps(engine), json.dumps(sampling), *prompts]
    done = subprocess.run(
        [sys.executable, "-m", "tests.serve.offline", *arguments],
        cwd=ROOT,
        env={**os.environ, **CPU},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    (line,) = (line for line in done.stdout.splitlines() if line.startswith(ANSWERS))
    answers: list[str] = json.loads(line.removeprefix(ANSWERS))
    return answers


def test_fewer_bits_still_know(tmp_path: Path) -> None:
    """4-bit weights, an FP8 KV cache and the small model as a draft, all at once."""
    draft = {"model": str(demo.locate("fast")), "num_speculative_tokens": 3}
    engine = {
        "enforce_eager": True,
        "max_model_len": 1024,
        "kv_cache_dtype": "fp8",
        "speculative_config": draft,
    }
    answers = answer(write_awq("strong", tmp_path / "awq"), engine)
    for text, wanted in zip(answers, QUESTIONS.values(), strict=True):
        assert wanted in text


def test_a_budget_ends_the_thoughts() -> None:
    """Only a prompt whose thoughts are open has them closed, when so many tokens are spent."""
    engine = {"enforce_eager": True, "max_model_len": 1024, "reasoning_parser": "qwen3"}
    [question, *_] = QUESTIONS
    open_, none = answer(
        demo.locate("fast"),
        engine,
        [f"{question}<think>", question],
        thinking_token_budget=12,
        skip_special_tokens=False,
    )
    assert open_.count("</think>") == 1
    assert "</think>" not in none
