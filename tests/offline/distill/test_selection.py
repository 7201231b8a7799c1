"""Which answers of a log may be taught."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.config.feedback import BUILT_INS
from serve_app.offline.distill.distill_errors import InvalidLog
from serve_app.offline.distill.log_rows import Row, read_log
from serve_app.offline.distill.selection import (
    Fate,
    Rules,
    Selection,
    conversation_key,
    is_for_validation,
    may_be_asked,
    question_key,
    select,
)
from serve_app.offline.distill.training_set import Lesson, Message
from tests.offline.distill.logs import (
    BOTH_WRONG,
    DIFFERENT,
    FAST_ONLY,
    SAME,
    call,
    label,
    thumb,
    write_log,
)

RULES = Rules(BUILT_INS)


def choose(directory: Path, *lines: bytes, rules: Rules = RULES) -> Selection:
    return select(read_log([write_log(directory, *lines)]).rows, rules)


def taught(selection: Selection) -> dict[str, str]:
    return {lesson.conversation[-1].content: lesson.answer for lesson in selection.lessons}


def test_the_strong_answer_is_taught_whoever_answered_the_client(tmp_path: Path) -> None:
    """The label asked the other tier, so its line or the call's has the strong answer."""
    lines = [call("a"), label("a"), call("b", by="strong"), label("b", SAME)]
    selection = choose(tmp_path, *lines)
    assert taught(selection) == {"a?": "theirs", "b?": "ours"}
    assert selection.fates == {Fate.KEPT: 2}
    assert selection.sources == {"asked for the label": 1, "answered the client": 1}
    assert selection.verdicts == {
        "only the strong tier is right": 1,
        "both answers are right": 1,
    }


@pytest.mark.parametrize(
    ("lines", "fate"),
    [
        ([call("a", consented=False), label("a")], Fate.NO_CONSENT),
        ([call("a", answer=None), label("a", other=None)], Fate.NO_ANSWER),
        ([call("a", by="strong")], Fate.NO_VERDICT),
        ([call("a", by="strong"), thumb("a", right=False)], Fate.WRONG),
        ([call("a", by="strong"), thumb("a", right=True)], Fate.KEPT),
        ([call("a"), label("a", BOTH_WRONG)], Fate.WRONG),
        ([call("a"), label("a", FAST_ONLY)], Fate.WRONG),
        ([call("a"), label("a", SAME), thumb("a", right=False)], Fate.WRONG),
        ([call("a"), label("a", DIFFERENT), thumb("a", right=False)], Fate.KEPT),
        ([call("a", by="strong"), label("a"), thumb("a", right=False)], Fate.WRONG),
        ([call("a", " "), label("a")], Fate.NO_QUESTION),
        ([call("a"), label("a", other="Write to me@example.org")], Fate.REDACTED_ANSWER),
        ([call("a", "x" * 8001), label("a")], Fate.TOO_LONG),
    ],
)
def test_the_fate_of_a_call(tmp_path: Path, lines: list[bytes], fate: Fate) -> None:
    """By consent, texts and verdict; feedback counts more than a label."""
    assert choose(tmp_path, *lines).fates == {fate: 1}


def test_consent_may_be_assumed_by_the_operator(tmp_path: Path) -> None:
    """The client of such a call did not refuse; a log of before knows no consent at all."""
    rules = Rules(BUILT_INS, assumed_consent=True)
    assert choose(tmp_path, call("a", consented=False), label("a"), rules=rules).lessons


def test_a_question_is_redacted_even_if_the_log_was_not(tmp_path: Path) -> None:
    """The log may have been written with fewer patterns."""
    selection = choose(tmp_path, call("a", "Is me@example.org valid?"), label("a"))
    assert taught(selection) == {"Is [email] valid?": "theirs"}


def test_a_held_out_question_is_never_taught(tmp_path: Path) -> None:
    """However it is written; here it comes in another case and without its mark."""
    rules = Rules(BUILT_INS, held_out={question_key("What is 2 + 2?")})
    selection = choose(tmp_path, call("a", "what IS 2 + 2"), label("a"), rules=rules)
    assert selection.fates[Fate.HELD_OUT] + selection.fates[Fate.KEPT] == 1
    again = choose(tmp_path, call("a", "WHAT is 2 + 2?"), label("a"), rules=rules)
    assert again.fates == {Fate.HELD_OUT: 1}


def test_a_conversation_is_taught_once(tmp_path: Path) -> None:
    """The first of those that differ in nothing but case."""
    lines = [call("a", "Hello?"), label("a"), call("b", "HELLO?"), label("b", other="more")]
    selection = choose(tmp_path, *lines)
    assert taught(selection) == {"Hello?": "theirs"}
    assert selection.fates == {Fate.KEPT: 1, Fate.DUPLICATE: 1}


def test_only_what_consent_allows_is_asked() -> None:
    """A missing answer or verdict can be asked for, but not of a call without consent."""
    row = Row((Message("user", "a?"),), True, None, "", None, None)
    assert may_be_asked(row, RULES)
    private = Row(row.conversation, False, None, "", None, None)
    assert not may_be_asked(private, RULES)
    judged = Row(row.conversation, True, "b", "", 0.0, 1.0)
    assert not may_be_asked(judged, RULES)


ROWS = st.builds(
    Row,
    conversation=st.lists(
        st.builds(Message, st.sampled_from(["user", "assistant"]), st.sampled_from("abAB ")),
        min_size=1,
        max_size=3,
    ).map(tuple),
    consented=st.booleans(),
    answer=st.sampled_from([None, "", "x", "[email]", "0123 456789"]),
    source=st.just("log"),
    strong=st.sampled_from([None, 0.0, 0.5, 1.0]),
    small=st.sampled_from([None, 0.0, 1.0]),
)


@given(rows=st.lists(ROWS, max_size=12))
def test_nothing_without_consent_gets_out_and_counts_add_up(rows: list[Row]) -> None:
    """Every row has one fate, every lesson comes from a row that consented and was judged right."""
    selection = select(rows, RULES)
    assert selection.fates.total() == len(rows)
    assert selection.fates[Fate.KEPT] == len(selection.lessons)
    assert selection.sources.total() == selection.verdicts.total() == len(selection.lessons)
    keys = [conversation_key(lesson.conversation) for lesson in selection.lessons]
    assert len(keys) == len(set(keys))
    allowed = {row.conversation for row in rows if row.consented and (row.strong or 0) >= 0.5}
    assert {lesson.conversation for lesson in selection.lessons} <= allowed


def test_the_draw_for_validation_is_fair_and_always_the_same() -> None:
    """It depends on the conversation alone, so a growing log moves no lesson."""
    lessons = [Lesson((Message("user", f"{n}?"),), "a") for n in range(2000)]
    drawn = [is_for_validation(lesson, 0.1) for lesson in lessons]
    assert 150 < sum(drawn) < 250
    assert drawn == [is_for_validation(lesson, 0.1) for lesson in lessons]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{\n", "line 1: the line: expected JSON"),
        (b'{"prompt": "a"}\n', "line 1: the line: expected an object with `kind`"),
        (b'{"kind": "call", "request_id": "a"}\n', "line 1: messages: expected a list"),
        (b'{"kind": "label", "request_id": "a"}\n', "line 1: small_score: expected a number"),
    ],
)
def test_a_line_that_cannot_be_used(tmp_path: Path, content: bytes, says: str) -> None:
    """The error names the line, the key and the expected value."""
    path = tmp_path / "mine.jsonl"
    path.write_bytes(content)
    with pytest.raises(InvalidLog, match=says):
        read_log([path])


def test_no_log_here(tmp_path: Path) -> None:
    """A directory without a log, and a file that is not there."""
    with pytest.raises(InvalidLog, match="calls_"):
        read_log([tmp_path])
    with pytest.raises(InvalidLog, match="No such file"):
        read_log([tmp_path / "none.jsonl"])
