"""The parts of the evidence's measurement that need no service."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import evidence
import pytest

from serve_app.config.reader import read_serve_config
from serve_app.offline.demo.testset import TESTSET
from serve_app.offline.evaluate.answers import ANSWERS_FILE, SETTINGS_FILE, GradedAnswer, Settings
from serve_app.offline.evaluate.dataset import read_dataset


def test_the_configs_are_the_local_one_with_changes(tmp_path: Path) -> None:
    """What is not changed stays, and the reader of configs takes the rest."""
    section = evidence.feedback_section(tmp_path / "feedback")
    path = evidence.write_config(tmp_path / "a.yaml", {"feedback": section})
    runtime = read_serve_config(path).runtime
    assert runtime.feedback is not None
    assert runtime.feedback.pending_max == 2 * evidence.CALLS
    path = evidence.write_config(tmp_path / "b.yaml", {"routing": {"policy": "cascade"}})
    routing = read_serve_config(path).runtime.routing
    assert (routing.policy, routing.fast_prompt_tokens_max) == ("cascade", 4096)


def test_the_ways_to_route_stand_side_by_side(tmp_path: Path) -> None:
    """Each is a model of its own, although all of them were asked as `auto`."""
    items = read_dataset(TESTSET).items
    settings = asdict(Settings("", "", 512, 0, 0))
    for name, right in ((evidence.SHIPPED, 100), (evidence.LEARNT, 300), (evidence.CASCADE, 200)):
        directory = tmp_path / name
        directory.mkdir()
        (directory / SETTINGS_FILE).write_text(json.dumps(settings))
        models = ("fast", "strong", "auto") if name == evidence.SHIPPED else ("auto",)
        answers = [
            GradedAnswer(item.id, model, right=place < right, tier="fast")
            for model in models
            for place, item in enumerate(items)
        ]
        lines = [json.dumps(asdict(answer)) for answer in answers]
        (directory / ANSWERS_FILE).write_text("\n".join(lines) + "\n")
    summary = evidence.merge(tmp_path)
    found = {model.model: model.accuracy.ratio for model in summary.models if model.accuracy}
    assert found == pytest.approx(
        {"fast": 0.25, "strong": 0.25, "auto, shipped": 0.25, "auto, learnt": 0.75, "cascade": 0.5}
    )


def test_a_line_that_is_being_written_is_not_read(tmp_path: Path) -> None:
    """Routers write while the measurement waits for the last label."""
    (tmp_path / "a.jsonl").write_text('{"kind": "call"}\n{"kind": "la')
    assert list(evidence.read_lines(tmp_path)) == ['{"kind": "call"}']
