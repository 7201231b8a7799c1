"""The file of answers, whole or torn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from serve_app.offline.evaluate.answers import (
    ANSWERS_FILE,
    SETTINGS_FILE,
    GradedAnswer,
    open_answers,
)
from serve_app.offline.evaluate.evaluation_errors import OtherEvaluation
from tests.offline.evaluate.fakes import SETTINGS, USAGE

RIGHT = GradedAnswer("1", "fast", "七", True, "fast", "model", 0.5, 0.1, 0.2, USAGE)
WRONG = GradedAnswer("2", "fast", "8", False)
FAILED = GradedAnswer("3", "fast", error="status 500")


def fill(directory: Path, *answers: GradedAnswer) -> bytes:
    """The file after these answers."""
    with open_answers(directory, SETTINGS) as log:
        for answer in answers:
            log.add(answer)
    return (directory / ANSWERS_FILE).read_bytes()


def reopen(directory: Path) -> list[GradedAnswer]:
    """What the next evaluation finds there."""
    with open_answers(directory, SETTINGS) as log:
        return log.answers


def test_answers_are_kept(tmp_path: Path) -> None:
    """One line a call, with every field; they are there again the next time."""
    content = fill(tmp_path / "new" / "place", RIGHT, WRONG)
    first = orjson.loads(content.splitlines()[0])
    fields = "id model answer right tier reason score ttft_s total_s usage error logprobs"
    assert list(first) == fields.split()
    assert first["answer"] == "七"
    assert reopen(tmp_path / "new" / "place") == [RIGHT, WRONG]


def test_an_answer_is_on_disk_at_once(tmp_path: Path) -> None:
    """Whatever happens next, it has been written."""
    with open_answers(tmp_path, SETTINGS) as log:
        log.add(RIGHT)
        assert (tmp_path / ANSWERS_FILE).read_bytes().endswith(b"}\n")


@pytest.mark.parametrize("cut", [1, 2, 30])
def test_half_a_line_is_dropped(tmp_path: Path, cut: int) -> None:
    """It is gone from the file too, so that the next line does not stick to it."""
    content = fill(tmp_path, RIGHT, WRONG)
    (tmp_path / ANSWERS_FILE).write_bytes(content[:-cut])
    assert reopen(tmp_path) == [RIGHT]
    assert fill(tmp_path, WRONG) == content


def test_failed_calls_are_forgotten(tmp_path: Path) -> None:
    """They are made again, and then the file holds one line a call."""
    fill(tmp_path, FAILED, RIGHT)
    assert reopen(tmp_path) == [RIGHT]
    assert fill(tmp_path, replace(FAILED, right=True, error=None)).count(b"\n") == 2


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("dataset_sha256", "1" * 64),
        ("base_url", "http://elsewhere/v1"),
        ("max_tokens", 65),
        ("temperature", 0.5),
        ("seed", 1),
    ],
)
def test_other_settings_are_refused(tmp_path: Path, key: str, value: object) -> None:
    """The message says which setting differs and how; nothing is touched."""
    content = fill(tmp_path, RIGHT)
    other = replace(SETTINGS, **{key: value})
    with (
        pytest.raises(OtherEvaluation, match=f"{key} is .* there and {value} here"),
        open_answers(tmp_path, other),
    ):
        pass
    assert (tmp_path / ANSWERS_FILE).read_bytes() == content


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (SETTINGS_FILE, None, f"it has no {SETTINGS_FILE}"),
        (SETTINGS_FILE, b"{", "cannot be read"),
        (SETTINGS_FILE, b"[3]", "cannot be read"),
        (ANSWERS_FILE, b'{"id": 1, "colour": 2}\n', "line 1 of answers.jsonl is not an answer"),
        (ANSWERS_FILE, b"hello\n", "line 1 of answers.jsonl is not an answer"),
    ],
)
def test_foreign_files_are_refused(
    tmp_path: Path, name: str, content: bytes | None, words: str
) -> None:
    """A directory with files of something else is left alone."""
    fill(tmp_path, RIGHT)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(OtherEvaluation, match=words), open_answers(tmp_path, SETTINGS):
        pass
    assert content is None or (tmp_path / name).read_bytes() == content
