"""`serve-app bench scorer`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from serve_app.cli.main import app
from serve_app.offline.bench.scorer import LENGTHS, build_conversation, build_prompt, time_scorers
from tests.routing.fakes import FakeScorer


@pytest.mark.parametrize("kind", ["English", "Chinese", "code"])
def test_prompts_have_the_length_asked_for(kind: str) -> None:
    """To the character, and another text for another number."""
    for chars in LENGTHS:
        [turn] = build_prompt(kind, chars, 0).turns
        assert len(turn.text) == chars
        assert build_prompt(kind, chars, 1).turns[0] != turn


def test_only_the_newest_turn_of_a_conversation_is_new() -> None:
    """The system prompt and the earlier turns come again with every call."""
    one, two = (build_conversation("English", number).turns for number in range(2))
    assert one[:-1] == two[:-1]
    assert one[-1] not in two


def test_scorers_take_turns() -> None:
    """Each is timed on every prompt as often as the other."""
    scorers = {"a": FakeScorer(), "b": FakeScorer()}
    seconds = time_scorers(scorers, partial(build_prompt, "code", 50), rounds=30)
    assert {name: len(taken) for name, taken in seconds.items()} == {"a": 30, "b": 30}
    assert scorers["a"].seen == scorers["b"].seen


def test_the_log_gets_a_section(tmp_path: Path) -> None:
    """Both scorers at every length, with the machine and the command."""
    log = tmp_path / "log.md"
    log.write_text("# Log\n")
    result = CliRunner().invoke(app, ["bench", "scorer", "--rounds", "100", "--log", str(log)])
    assert result.exit_code == 0, result.output
    section = log.read_text()
    assert "`serve-app bench scorer`" in section
    assert section.count("| learned |") == section.count("| heuristic (peer) |") == 15
    assert section.count("| learned, text seen before |") == 15
