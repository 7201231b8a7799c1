"""The texts of an answer, in every dialect, whole and streamed, and redacted."""

from __future__ import annotations

import orjson
import pytest

from serve_app.audit.texts import read_parts, render_texts
from serve_app.config.feedback import BUILT_INS
from serve_app.core.content import Content
from serve_app.core.redact import Redactor

TOOL = {"function": {"name": "look", "arguments": '{"city":"Paris"}'}, "id": "t1"}


def stream(*events: object) -> bytes:
    return b"".join(b"data: " + orjson.dumps(event) + b"\n\n" for event in events)


def chat(delta: object, index: int = 0) -> dict[str, object]:
    return {"id": "x", "model": "m", "choices": [{"index": index, "delta": delta}]}


@pytest.mark.parametrize(
    ("body", "parts"),
    [
        (
            orjson.dumps({"choices": [{"index": 0, "message": {"content": "Hi", "role": "a"}}]}),
            [("0.content", "Hi")],
        ),
        (
            orjson.dumps({"choices": [{"index": 0, "message": {"tool_calls": [TOOL]}}]}),
            [("0.0.name", "look"), ("0.0.arguments", '{"city":"Paris"}')],
        ),
        (
            stream(chat({"content": "a@"}), chat({"content": "b.org"}), chat({"content": "!"}, 1))
            + b"data: [DONE]\n\n",
            [("0.content", "a@b.org"), ("1.content", "!")],
        ),
        (
            stream(
                chat({"tool_calls": [{"index": 0, "function": {"name": "look"}}]}),
                chat({"tool_calls": [{"index": 0, "function": {"arguments": '{"ci'}}]}),
                chat({"tool_calls": [{"index": 0, "function": {"arguments": 'ty":1}'}}]}),
            ),
            [("0.0.name", "look"), ("0.0.arguments", '{"city":1}')],
        ),
        (stream(chat({"content": "Par"})) + b'data: {"choices":[{"del', [("0.content", "Par")]),
        (orjson.dumps({"choices": [{"index": 0, "text": "four"}]}), [("0.text", "four")]),
        (
            orjson.dumps(
                {
                    "instructions": "be brief",
                    "tools": [{"name": "look"}],
                    "output": [{"type": "message", "content": [{"text": "Hi"}]}],
                }
            ),
            [("0.0.text", "Hi")],
        ),
        (
            stream(
                {"type": "response.created", "response": {"instructions": "x"}},
                {"type": "response.output_text.delta", "output_index": 0, "delta": "Hi "},
                {"type": "response.output_text.delta", "output_index": 0, "delta": "you"},
                {"type": "response.output_text.done", "output_index": 0, "text": "Hi you"},
            ),
            [("0.delta", "Hi you")],
        ),
        (
            orjson.dumps({"content": [{"type": "tool_use", "name": "look", "input": {"x": 1}}]}),
            [("0.name", "look"), ("0.input", '{"x":1}')],
        ),
        (
            stream(
                {"type": "content_block_delta", "index": 0, "delta": {"text": "Hi"}},
                {"type": "content_block_delta", "index": 1, "delta": {"partial_json": "{}"}},
            ),
            [("0.text", "Hi"), ("1.partial_json", "{}")],
        ),
        (orjson.dumps({"error": {"message": "no", "type": "x"}}), [("message", "no")]),
        (b"\xff\x00", []),
    ],
)
def test_parts(body: bytes, parts: list[tuple[str, str]]) -> None:
    """What the model wrote, with its place; nothing that repeats the request."""
    assert list(read_parts(body)) == parts


def test_redaction_sees_through_the_events_of_a_stream() -> None:
    """An address that comes in two tokens is found, and so is one in a prompt."""
    content = Content([("user", "I am eve@example.org")], 1000)
    for piece in ("Write to ad", "am@exam", "ple.org."):
        content.add(stream(chat({"content": piece})))
    assert render_texts(content, Redactor(BUILT_INS)) == {
        "prompt": [{"role": "user", "text": "I am [email]"}],
        "answer": [{"part": "0.content", "text": "Write to [email]."}],
    }


def test_what_cannot_be_redacted_in_time_is_left_out() -> None:
    """Rather no text than one with secrets."""
    content = Content([("user", "x@example.org")], 1000)
    content.add(orjson.dumps({"text": "y@example.org"}))
    fields = render_texts(content, Redactor(BUILT_INS, seconds_max=0))
    assert fields == {"texts_left_out": "they could not be redacted in time"}


@pytest.mark.parametrize(("pieces", "chars_max"), [([b"x" * 100_000], 1), ([b""], 0)])
def test_long_and_unwanted_answers(pieces: list[bytes], chars_max: int) -> None:
    """A long answer is dropped while it passes, and the record says so."""
    content = Content(None, chars_max, prompt_too_long=True)
    for piece in pieces:
        content.add(piece)
    fields = render_texts(content, Redactor(BUILT_INS))
    assert fields.pop("prompt_left_out") == "it is too long"
    assert fields == ({"answer_left_out": "it is too long"} if chars_max else {})
