"""The lines of a service's feedback log, joined."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from serve_app.config.tiers import TierConfig
from serve_app.core.call import Decision, Reason
from serve_app.feedback.lines import FeedbackReport, render_call, render_label, render_report
from serve_app.feedback.sample import Label
from serve_app.feedback.sampling import TierPair
from serve_app.offline.learning.learning_errors import InvalidRecords
from serve_app.offline.learning.records import LabelledCall, Records, read_records

PAIR = TierPair(TierConfig(name="fast", model_id="S"), TierConfig(name="strong", model_id="L"))
DIFFERENT = Label(0.0, 1.0, "match", same=False)
SAME = Label(1.0, 1.0, "match", same=True)


def call(name: str, tier: str = "fast", text: str | None = None) -> bytes:
    decision = Decision(tier, "S", Reason.SIMPLE, 0.3)
    messages = [("system", "Be brief."), ("user", text or f"{name}?")]
    return render_call(
        name, messages, schema=name == "s", decision=decision, pair=PAIR, answer=None
    )


def label(name: str, value: Label = DIFFERENT) -> bytes:
    return render_label(name, value, None)


def feedback(name: str, right: bool) -> bytes:
    return render_report(FeedbackReport(name, right))


def load(directory: Path, *files: list[bytes]) -> Records:
    for number, lines in enumerate(files):
        (directory / f"calls_{number}.jsonl").write_bytes(b"".join(lines))
    return read_records([directory])


def scores(records: Records) -> dict[str, tuple[float, float]]:
    return {record.prompt.turns[-1].text: (record.fast, record.strong) for record in records.items}


def test_calls_meet_their_labels_in_any_file(tmp_path: Path) -> None:
    """And in any order; a call that waits for its label is left out and counted."""
    records = load(tmp_path, [label("b"), call("a"), call("c")], [call("b"), label("a", SAME)])
    assert scores(records) == {"a?": (1, 1), "b?": (0, 1)}
    assert records.skipped == 1
    assert len(records.sha256) == 64


def test_a_call_keeps_its_surroundings(tmp_path: Path) -> None:
    """Roles, the schema and the pair of models."""
    [record] = load(tmp_path, [call("s"), label("s")]).items
    assert isinstance(record, LabelledCall)
    assert [turn.role for turn in record.prompt.turns] == ["system", "user"]
    assert record.prompt.schema
    assert record.pair == ("S", "L")


@pytest.mark.parametrize(
    ("tier", "value", "right", "expected"),
    [
        ("fast", DIFFERENT, True, (1, 1)),
        ("fast", DIFFERENT, False, (0, 1)),
        ("strong", DIFFERENT, True, (0, 1)),
        ("strong", DIFFERENT, False, (0, 0)),
        ("fast", SAME, True, (1, 1)),
        ("fast", SAME, False, (0, 0)),
        ("strong", SAME, False, (0, 0)),
    ],
)
def test_feedback_counts_more_than_a_label(
    tmp_path: Path, tier: str, value: Label, right: bool, expected: tuple[int, int]
) -> None:
    """For the tier that answered; for both where their answers were the same."""
    records = load(tmp_path, [call("a", tier), label("a", value), feedback("a", right)])
    assert scores(records) == {"a?": expected}


def test_the_newest_feedback_counts(tmp_path: Path) -> None:
    """By its time, whichever file comes first."""
    old, new = orjson.loads(feedback("a", True)), orjson.loads(feedback("a", False))
    old["time"], new["time"] = "2026-01-01T00:00:00.000+00:00", "2026-01-02T00:00:00.000+00:00"
    lines = [orjson.dumps(new) + b"\n", orjson.dumps(old) + b"\n"]
    assert scores(load(tmp_path, [call("a"), label("a", SAME), *lines])) == {"a?": (0, 0)}


def test_what_cannot_be_joined_is_counted(tmp_path: Path) -> None:
    """Feedback on a call that is not there, and on one without a label."""
    records = load(tmp_path, [feedback("x", True), call("a"), feedback("a", False)])
    assert (list(records.items), records.skipped) == ([], 2)


def test_calls_that_share_an_id_do_not_count(tmp_path: Path) -> None:
    """Nobody knows which of them the label is about; the same line twice is no other call."""
    twice = call("b")
    records = load(
        tmp_path, [call("a"), call("a", text="else"), label("a"), twice, twice, label("b")]
    )
    assert (scores(records), records.skipped) == ({"b?": (0, 1)}, 1)


def test_other_labelled_lines_may_lie_beside_it(tmp_path: Path) -> None:
    """Files of different kinds are learnt from together."""
    other = tmp_path / "other.jsonl"
    other.write_bytes(b'{"prompt": "2 + 2?", "small_score": 1, "large_score": 1}')
    log = tmp_path / "calls_1.jsonl"
    log.write_bytes(call("a") + label("a"))
    assert scores(read_records([other, log])) == {"2 + 2?": (1, 1), "a?": (0, 1)}


def entry(line: bytes, **changes: Any) -> bytes:
    return orjson.dumps(orjson.loads(line) | changes)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (entry(call("a"), request_id=1), "line 2: request_id: expected a string"),
        (entry(call("a"), messages=[]), "line 2: messages: expected a list"),
        (entry(call("a"), messages=[{"role": "user"}]), r"line 2: messages\[0\]: expected an obj"),
        (entry(call("a"), small_model=1), "line 2: small_model: expected a string"),
        (entry(label("a"), small_score=None), "line 2: small_score: expected a number"),
        (entry(label("a"), large_score=2), "line 2: large_score: expected a number"),
        (entry(feedback("a", True), right="yes"), "line 2: right: expected true or false"),
    ],
    # A line holds the time of its making, and pytest's processes must name a test alike.
    ids=lambda value: value if isinstance(value, str) else "line",
)
def test_a_bad_line_is_named(tmp_path: Path, line: bytes, words: str) -> None:
    """File, line, key, and what belongs there."""
    with pytest.raises(InvalidRecords, match=words):
        load(tmp_path, [call("b"), line])


def test_a_directory_without_a_log_is_named(tmp_path: Path) -> None:
    """As before: by the file that `evaluate` would have written."""
    with pytest.raises(InvalidRecords, match=r"answers\.jsonl: No such file"):
        read_records([tmp_path])


def test_a_torn_last_line_is_passed_over(tmp_path: Path) -> None:
    """A killed Router leaves one; anywhere else it is an error."""
    torn = call("b")[:-9]
    assert scores(load(tmp_path, [call("a"), label("a"), torn])) == {"a?": (0, 1)}
    with pytest.raises(InvalidRecords, match="line 2: the line: expected JSON"):
        load(tmp_path, [call("a"), torn + b"\n", label("a")])
