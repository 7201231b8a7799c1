"""The checker sees each wrong outcome, and takes no right one for it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tests.outcomes.outcome import Ending, Outcome, Seen, expected_text, judge

TEXT = expected_text(7)
ERROR = {"error": {"message": "The engine broke off.", "code": "upstream_failed"}}


def event(document: object) -> bytes:
    return b"data: " + json.dumps(document).encode() + b"\n\n"


def delta(text: str, finish: str | None = None) -> bytes:
    return event({"choices": [{"delta": {"content": text}, "finish_reason": finish}]})


USAGE = event({"choices": [], "usage": {"completion_tokens": 67}})
DONE = b"data: [DONE]\n\n"
HALF = delta(TEXT[:20])
WHOLE = HALF + delta(TEXT[20:], "stop") + USAGE + DONE
STREAM = Seen(7, True, Ending.COMPLETE, 0.0, 1.0, 200, "call-7", WHOLE)
ANSWER = {
    "choices": [{"message": {"content": TEXT}, "finish_reason": "stop"}],
    "usage": {"completion_tokens": 67},
}
PIECE = replace(STREAM, stream=False, body=json.dumps(ANSWER).encode())


def test_texts_of_calls_differ_everywhere() -> None:
    """Two calls share no slice of a whole number's length."""
    assert TEXT[6:12] not in expected_text(8)
    assert not expected_text(8).startswith(TEXT[:5])


@pytest.mark.parametrize("call", [STREAM, PIECE])
def test_a_complete_answer(call: Seen) -> None:
    """Everything is there: the call's own text, its end, its usage."""
    assert judge(call) is Outcome.ANSWERED


def test_an_answer_whose_connection_breaks_after_its_last_byte() -> None:
    """The client has all of it."""
    assert judge(replace(STREAM, ending=Ending.BROKEN)) is Outcome.ANSWERED


@pytest.mark.parametrize(
    "body",
    [
        b"",
        HALF,
        HALF + DONE,
        HALF + delta("", "stop") + USAGE + DONE,
        delta(TEXT, "length") + USAGE + DONE,
        delta(TEXT, "stop") + DONE,
        delta(TEXT, "stop") + USAGE,
        delta(TEXT) + USAGE + DONE,
        WHOLE[:-2],
    ],
)
def test_a_stream_that_ends_too_early_and_looks_complete(body: bytes) -> None:
    """No text, no end, no usage or no `[DONE]`, where the transport says that this was all."""
    assert judge(replace(STREAM, body=body)) is Outcome.TRUNCATED


@pytest.mark.parametrize("body", [b"", b'{"choices": [', b"[]", b"{}"])
def test_a_whole_answer_that_is_none(body: bytes) -> None:
    """A 200 must hold an answer."""
    assert judge(replace(PIECE, body=body)) is Outcome.TRUNCATED


def test_a_whole_answer_that_is_too_short() -> None:
    """Even as well-formed JSON."""
    choice = {"message": {"content": TEXT[:9]}, "finish_reason": "stop"}
    body = json.dumps({**ANSWER, "choices": [choice]}).encode()
    assert judge(replace(PIECE, body=body)) is Outcome.TRUNCATED


@pytest.mark.parametrize(
    "body",
    [
        delta(expected_text(8)),
        HALF + delta(expected_text(8)[20:], "stop") + USAGE + DONE,
        HALF + HALF,
        WHOLE + delta("0"),
        WHOLE[: -len(DONE)] + delta(TEXT, "stop") + DONE,
    ],
)
@pytest.mark.parametrize("ending", list(Ending))
def test_text_of_another_call(body: bytes, ending: Ending) -> None:
    """From the begin or from the midst, or one's own text twice, however the call ends."""
    assert judge(replace(STREAM, body=body, ending=ending)) is Outcome.MIXED


@pytest.mark.parametrize("status", [200, 503])
def test_the_head_of_another_call(status: int) -> None:
    """The request id is another call's."""
    assert judge(replace(STREAM, request_id="call-8", status=status)) is Outcome.MIXED


@pytest.mark.parametrize("ending", list(Ending))
def test_an_error_event(ending: Ending) -> None:
    """Its client knows, whatever becomes of the connection."""
    assert judge(replace(STREAM, body=HALF + event(ERROR), ending=ending)) is Outcome.ERROR_EVENT


def test_half_an_error_event_tells_nothing() -> None:
    """It has not come."""
    assert judge(replace(STREAM, body=HALF + event(ERROR)[:-2])) is Outcome.TRUNCATED


@pytest.mark.parametrize("call", [replace(STREAM, body=HALF), replace(PIECE, body=b'{"choi')])
@pytest.mark.parametrize(
    ("ending", "outcome"),
    [
        (Ending.BROKEN, Outcome.BROKEN),
        (Ending.LEFT, Outcome.CANCELLED),
        (Ending.SILENT, Outcome.LOST),
    ],
)
def test_an_answer_that_has_begun(call: Seen, ending: Ending, outcome: Outcome) -> None:
    """The transport tells a break; the client's own leaving is one; silence is a lost call."""
    assert judge(replace(call, ending=ending)) is outcome


@pytest.mark.parametrize(
    ("ending", "outcome"),
    [
        (Ending.BROKEN, Outcome.BROKEN),
        (Ending.UNREACHABLE, Outcome.UNREACHABLE),
        (Ending.LEFT, Outcome.CANCELLED),
        (Ending.SILENT, Outcome.LOST),
    ],
)
def test_a_call_without_a_head(ending: Ending, outcome: Outcome) -> None:
    """As above, before the first byte."""
    call = replace(STREAM, status=None, request_id=None, body=b"", ending=ending)
    assert judge(call) is outcome


def test_a_refusal() -> None:
    """A status and an error object."""
    refused = replace(STREAM, status=503, body=json.dumps(ERROR).encode())
    assert judge(refused) is Outcome.REFUSED
    assert judge(replace(refused, request_id=None)) is Outcome.REFUSED


@pytest.mark.parametrize("body", [b"", b"<html>503</html>", b"{}", b'{"error": "x"}', b"[1]"])
def test_a_refusal_that_gives_no_reason(body: bytes) -> None:
    """A client could not read it."""
    assert judge(replace(STREAM, status=503, body=body)) is Outcome.UNCLEAR
