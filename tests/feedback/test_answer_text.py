"""The text of an answer, from the bytes that passed."""

from __future__ import annotations

import json

import pytest

from serve_app.core.call import GENERATION_ENDPOINTS, Endpoint
from serve_app.feedback.answer_text import answer_text
from tests.feedback.fakes import streamed, whole

every_endpoint = pytest.mark.parametrize("endpoint", sorted(GENERATION_ENDPOINTS))


@every_endpoint
def test_a_whole_answer(endpoint: Endpoint) -> None:
    """Of each dialect; reasoning is not part of it."""
    assert answer_text(endpoint, whole(endpoint, "It is 42.\n你好")) == "It is 42.\n你好"


@every_endpoint
def test_a_streamed_answer(endpoint: Endpoint) -> None:
    """Its pieces in their order, line ends included."""
    body = streamed(endpoint, "It ", "is\n", "42.", "你好")
    assert answer_text(endpoint, body) == "It is\n42.你好"
    assert answer_text(endpoint, body.replace(b"\n\n", b"\r\n\r\n")) == "It is\n42.你好"


@every_endpoint
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b"data: {",
        b'{"error": {"message": "x"}}',
        b'data: {"error": {"message": "x"}}\n\n',
        b"data: 5\n\n",
    ],
)
def test_what_is_no_text(endpoint: Endpoint, body: bytes) -> None:
    """Errors, fragments and unknown shapes are None, never an exception."""
    assert answer_text(endpoint, body) is None


@every_endpoint
def test_an_empty_answer_is_none(endpoint: Endpoint) -> None:
    """Nothing but spaces cannot be compared."""
    assert answer_text(endpoint, whole(endpoint, " \n")) is None


@pytest.mark.parametrize(
    ("endpoint", "document"),
    [
        (Endpoint.CHAT, {"choices": [{"message": {"content": "x", "tool_calls": [{"id": 1}]}}]}),
        (Endpoint.RESPONSES, {"status": "completed", "output": [{"type": "function_call"}]}),
        (Endpoint.RESPONSES, {"status": "queued", "output": []}),
        (Endpoint.MESSAGES, {"content": [{"type": "tool_use", "name": "f"}]}),
    ],
)
def test_a_call_of_a_tool_is_no_text(endpoint: Endpoint, document: object) -> None:
    """Nor is an answer that is still to come."""
    assert answer_text(endpoint, json.dumps(document).encode()) is None


@pytest.mark.parametrize(
    ("endpoint", "event"),
    [
        (Endpoint.CHAT, {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0}]}}]}),
        (Endpoint.MESSAGES, {"type": "content_block_start", "content_block": {"type": "tool_use"}}),
        (Endpoint.MESSAGES, {"type": "error", "detail": "x"}),
        (Endpoint.RESPONSES, {"type": "response.failed"}),
    ],
)
def test_a_stream_that_fails_or_calls_a_tool_is_no_text(endpoint: Endpoint, event: object) -> None:
    """Even if it said something before."""
    body = streamed(endpoint, "Well").removesuffix(b"data: [DONE]\n\n")
    assert answer_text(endpoint, body + f"data: {json.dumps(event)}\n\n".encode()) is None
