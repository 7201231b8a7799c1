"""Labelled calls, from files of three kinds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import orjson
import pytest

from serve_app.core.call import Turn
from serve_app.offline.evaluate.dataset import read_dataset
from serve_app.offline.learning.learning_errors import InvalidRecords
from serve_app.offline.learning.records import read_records

GOOD: dict[str, Any] = {"prompt": "2 + 2?", "small_score": 0, "large_score": 1}


def write(path: Path, *lines: object) -> Path:
    path.write_bytes(
        b"\n".join(line if isinstance(line, bytes) else orjson.dumps(line) for line in lines)
    )
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "records.jsonl"


def test_a_prompt_and_two_scores_are_enough(path: Path) -> None:
    """Scores may be shares, or true and false; empty lines mean nothing."""
    write(path, GOOD, b"", GOOD | {"small_score": 0.25, "large_score": True})
    records = read_records([path])
    assert [(r.fast, r.strong) for r in records.items] == [(0, 1), (0.25, 1)]
    assert records.items[0].prompt.turns == (Turn("user", "2 + 2?"),)
    assert len(records.sha256) == 64


def test_a_conversation_keeps_its_roles_and_its_surroundings(path: Path) -> None:
    """Messages as OpenAI has them: parts, tools and a response format."""
    line = {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
            },
            {"role": "assistant", "content": None},
        ],
        "tools": [{}, {}],
        "response_format": {"type": "json_schema"},
        "small_score": 1,
        "large_score": 1,
        "task": "t",
        "group": "g",
        "small_model": "S",
        "large_model": "L",
    }
    [record] = read_records([write(path, line)]).items
    assert [turn.text for turn in record.prompt.turns] == ["Be brief.", "a\nb", ""]
    assert (record.prompt.tools, record.prompt.schema) == (2, True)
    assert (record.task, record.group, record.pair) == ("t", "g", ("S", "L"))


def test_scores_of_more_tiers_have_names(path: Path) -> None:
    """A tier between may lack its label; a line of two scores has those of the outer tiers."""
    scores = {"fast": 0, "middle": True, "strong": 1, "other": 0.5}
    lines = [
        {"prompt": "x", "scores": scores},
        {"prompt": "y", "scores": scores | {"middle": None}},
        GOOD,
        {"prompt": "z", "scores": {"fast": 1}},
    ]
    tiers = ("fast", "middle", "strong")
    records = read_records([write(path, *lines)], tiers=tiers)
    found = [(r.fast, r.between, r.strong) for r in records.items]
    assert found == [(0, (1,), 1), (0, (None,), 1), (0, (None,), 1)]
    assert records.skipped == 1
    with pytest.raises(InvalidRecords, match="scores: expected an object with fast, middle"):
        read_records([write(path, {"prompt": "x", "scores": [0, 1]})], tiers=tiers)


def test_a_log_may_wait_for_verdicts(path: Path) -> None:
    """A line with one verdict, or none, is left out and counted."""
    write(path, GOOD, GOOD | {"small_score": None}, {"prompt": "x"})
    records = read_records([path])
    assert (len(records.items), records.skipped) == (1, 2)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"{", "line 2: the line: expected JSON"),
        ([], "line 2: the line: expected an object"),
        (GOOD | {"small_score": 2}, "line 2: small_score: expected a number from 0"),
        (GOOD | {"large_score": "yes"}, "line 2: large_score: expected a number from 0"),
        (GOOD | {"messages": []}, "line 2: messages: expected either"),
        (GOOD | {"prompt": 1}, "line 2: prompt: expected a string"),
        (GOOD | {"task": 1}, "line 2: task: expected a string"),
        ({"messages": [{}], "small_score": 1}, r"line 2: messages\[0\]: expected an object"),
        ({"messages": [], "small_score": 1}, "line 2: messages: expected a list"),
    ],
)
def test_a_bad_line_is_named(path: Path, line: object, words: str) -> None:
    """File, line, key, and what belongs there."""
    with pytest.raises(InvalidRecords, match=words):
        read_records([write(path, GOOD, line)])


def test_a_missing_file_is_named(path: Path) -> None:
    """By its path."""
    with pytest.raises(InvalidRecords, match=r"records\.jsonl: No such file"):
        read_records([path])


def questions(path: Path) -> Path:
    check = {"type": "exact", "value": "4"}
    return write(path, *({"id": name, "prompt": f"{name}?", "check": check} for name in "abc"))


def answer(question: str, model: str, right: bool | None) -> dict[str, Any]:
    return {"id": question, "model": model, "right": right}


def test_verdicts_of_an_evaluation_are_joined_by_question(tmp_path: Path) -> None:
    """Its directory will do; the last verdict counts, and a question lacking one is left out."""
    write(
        tmp_path / "answers.jsonl",
        answer("a", "fast", True),
        answer("a", "fast", False),
        answer("a", "strong", True),
        answer("b", "fast", True),
        answer("b", "auto", True),
        answer("c", "fast", None),
        answer("c", "strong", True),
    )
    dataset = read_dataset(questions(tmp_path / "questions.jsonl"))
    records = read_records([tmp_path], dataset)
    assert [(r.text, r.fast, r.strong) for r in records.items] == [("a?", 0, 1)]
    assert records.skipped == 2
    more = read_records([tmp_path], dataset, tiers=("fast", "auto", "strong"))
    assert [(r.text, r.between) for r in more.items] == [("a?", (None,))]


def test_answers_need_their_questions(tmp_path: Path) -> None:
    """Without them, or with others, the option that helps is named."""
    path = write(tmp_path / "answers.jsonl", answer("a", "fast", True), answer("a", "strong", True))
    with pytest.raises(InvalidRecords, match="--dataset"):
        read_records([path])
    dataset = read_dataset(questions(tmp_path / "questions.jsonl"))
    with pytest.raises(InvalidRecords, match="as 'small' or 'strong2'"):
        read_records([path], dataset, fast="small", strong="strong2")


@pytest.mark.parametrize(
    "line",
    [
        {"draft": {"mean_probability": 0.5, "min_probability": 0.25}},
        {"small_logprobs": [math.log(1.0), math.log(0.25), math.log(0.001)]},
    ],
)
def test_a_record_may_say_how_sure_the_fast_model_was(path: Path, line: dict[str, Any]) -> None:
    """By the features, or by the tokens' log-probabilities up to the checkpoint."""
    [record] = read_records([write(path, GOOD | line)], checkpoint_tokens=2).items
    assert record.draft is not None
    assert record.draft.mean_probability == pytest.approx(0.5)
    assert record.draft.min_probability == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"draft": {"mean_probability": 2, "min_probability": 0}}, "draft: expected an object"),
        ({"draft": [0.5, 0.5]}, "draft: expected an object"),
        ({"small_logprobs": [0.5]}, "small_logprobs: expected a list"),
        ({"small_logprobs": "no"}, "small_logprobs: expected a list"),
    ],
)
def test_a_draft_that_cannot_be_is_refused(path: Path, line: dict[str, Any], words: str) -> None:
    """With the key, and what belongs there."""
    with pytest.raises(InvalidRecords, match=words):
        read_records([write(path, GOOD | line)])


def test_drafts_of_an_evaluation(tmp_path: Path) -> None:
    """The fast model's log-probabilities become the record's draft."""
    dataset = write(
        tmp_path / "set.jsonl",
        {"id": "a", "prompt": "x", "check": {"type": "exact", "value": "1"}},
    )
    answers = write(
        tmp_path / "answers.jsonl",
        {"id": "a", "model": "fast", "right": True, "logprobs": [math.log(0.5)]},
        {"id": "a", "model": "strong", "right": True, "logprobs": [math.log(0.1)]},
    )
    [record] = read_records([answers], read_dataset(dataset)).items
    assert record.draft is not None
    assert record.draft.mean_probability == pytest.approx(0.5)
