"""What is read off a stream and mended in it, whatever its pieces."""

from __future__ import annotations

import itertools

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.core.call import Endpoint, Usage
from serve_app.core.errors import EngineRefused, UpstreamFailed
from serve_app.gateway.stream_tap import StreamTap

DELTA = b'data: {"id":"x","choices":[{"delta":{"content":"\\"usage\\":{"}}],"usage":null}\n\n'
USAGE = (
    b'data: {"id":"x","choices":[],"usage":{"prompt_tokens":7,"total_tokens":12,'
    b'"completion_tokens":5}}\n\n'
)
DONE = b"data: [DONE]\n\n"
STREAM = DELTA * 3 + USAGE + DONE


def tap_of(
    endpoint: Endpoint = Endpoint.CHAT, *, hide: bool = False, forces_tool: bool = False
) -> StreamTap:
    return StreamTap(endpoint, Usage(), hide=hide, forces_tool=forces_tool)


def feed_all(tap: StreamTap, pieces: list[bytes]) -> bytes:
    return b"".join(tap.feed(piece) for piece in pieces) + tap.flush()


@given(st.lists(st.integers(0, len(STREAM)), max_size=12), st.booleans())
def test_any_split_gives_the_same_bytes_and_counts(cuts: list[int], hide: bool) -> None:
    """However TCP cuts the stream, counts are right and only our own usage event is hidden."""
    edges = [0, *sorted(cuts), len(STREAM)]
    pieces = [STREAM[a:b] for a, b in itertools.pairwise(edges)]
    tap = tap_of(hide=hide)
    expected = STREAM.replace(USAGE, b"") if hide else STREAM
    assert feed_all(tap, pieces) == expected
    assert (tap.usage.prompt_tokens, tap.usage.completion_tokens) == (7, 5)


def test_whole_events_are_not_held_back() -> None:
    """An event that is complete leaves at once."""
    assert tap_of(hide=True).feed(DELTA) == DELTA


def test_an_unfinished_last_event_is_not_lost() -> None:
    """What an engine leaves unterminated still reaches the client."""
    assert feed_all(tap_of(), [b"data: half"]) == b"data: half"


CHAT_FAILED = (
    b'data: {"error": {"message": "Internal server error at /usr/lib", '
    b'"type": "InternalServerError", "param": null, "code": 500}}\n\n'
)
CHAT_REFUSED = (
    b'data: {"error": {"message": "token_id(s) [9] in logit_bias contain out-of-vocab token ids. '
    b'(parameter=logit_bias, value=[9])", "type": "BadRequestError", "param": "logit_bias", '
    b'"code": 400}}\n\n'
)
MESSAGE_START = b'event: message_start\ndata: {"type":"message_start"}\n\n'
MESSAGE_FAILED = (
    b'event: error\ndata: {"type":"error","error":{"type":"internal_error","message":"2 validation '
    b"errors for ChatCompletionStreamResponse\\nmodel\\n  Field required [type=missing, "
    b"input_value={'error': {'message': 'In...am': None, 'code': 500}}, input_type=dict]\"}}\n\n"
)
MESSAGE_REFUSED = MESSAGE_FAILED.replace(b"500}}", b"400}}")
RESPONSES_FAILED = b'event: error\ndata: {"type":"error","code":"server_error"}\n\n'


@pytest.mark.parametrize(
    ("endpoint", "begin", "event"),
    [
        (Endpoint.CHAT, DELTA, CHAT_FAILED),
        (Endpoint.COMPLETIONS, DELTA, CHAT_FAILED),
        (Endpoint.MESSAGES, MESSAGE_START, MESSAGE_FAILED),
        (Endpoint.RESPONSES, DELTA, RESPONSES_FAILED),
    ],
)
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_an_engines_error_event_ends_the_stream(
    endpoint: Endpoint, begin: bytes, event: bytes, size: int
) -> None:
    """In each dialect, however it is cut, nothing of the event nor after it passes."""
    tap = tap_of(endpoint)
    stream = begin + event + DONE
    passed = b""
    for start in range(0, len(stream), size):
        passed += tap.feed(stream[start : start + size])
        if tap.error is not None:
            break
    assert passed == begin
    assert isinstance(tap.error, UpstreamFailed)


@pytest.mark.parametrize(
    ("endpoint", "event", "words"),
    [
        (Endpoint.CHAT, CHAT_REFUSED, "out-of-vocab"),
        (Endpoint.MESSAGES, MESSAGE_REFUSED, "without `stream`"),
    ],
)
def test_what_the_client_caused_stays_the_clients_error(
    endpoint: Endpoint, event: bytes, words: str
) -> None:
    """vLLM checks some fields only when the stream has begun."""
    tap = tap_of(endpoint)
    assert tap.feed(event + DONE) == b""
    assert isinstance(tap.error, EngineRefused)
    assert tap.error.status == 400
    assert words in tap.error.message
    assert "parameter=" not in tap.error.message


@pytest.mark.parametrize("event", [b'data: {"error', b'data: {"error": 5}', b'data: {"error": {}}'])
def test_an_unfinished_error_is_one_too(event: bytes) -> None:
    """An error event whose end is missing, or that says nothing, reaches no client."""
    tap = tap_of()
    assert tap.feed(DELTA + event) + tap.flush() == (
        DELTA if b'"error"' in event else DELTA + event
    )
    assert isinstance(tap.error, UpstreamFailed) == (b'"error"' in event)


@given(st.text())
def test_no_text_of_a_model_ends_a_stream(text: str) -> None:
    """Text that imitates an error event is escaped in its own event."""
    for imitated in (text, CHAT_FAILED.decode(), MESSAGE_FAILED.decode()):
        event = b"data: " + orjson.dumps({"delta": imitated + text}) + b"\n\n"
        for endpoint in (Endpoint.CHAT, Endpoint.MESSAGES, Endpoint.RESPONSES):
            tap = tap_of(endpoint)
            assert tap.feed(event) == event
            assert tap.error is None


TOOL_START = (
    b"event: content_block_start\n"
    b'data: {"type":"content_block_start","content_block":{"type":"tool_use","id":"a"}}\n\n'
)
STOPPED = (
    b"event: message_delta\n"
    b'data: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":5}}'
    b"\n\n"
)


@pytest.mark.parametrize(
    ("forces_tool", "begin", "reason"),
    [
        (True, TOOL_START, b"tool_use"),
        (True, b"", b"end_turn"),
        (False, TOOL_START, b"end_turn"),
    ],
)
def test_a_forced_tool_call_ends_as_one(forces_tool: bool, begin: bytes, reason: bytes) -> None:
    """Anthropic's stop reason, only where the tool was forced and has been called."""
    tap = tap_of(Endpoint.MESSAGES, forces_tool=forces_tool)
    passed = feed_all(tap, [begin, STOPPED]) if begin else feed_all(tap, [STOPPED])
    assert b'"stop_reason":"%s"' % reason in passed
    assert tap.usage.completion_tokens == 5


def test_the_number_of_the_next_event_of_responses() -> None:
    """Our error event goes on counting where the engine stopped."""
    tap = tap_of(Endpoint.RESPONSES)
    assert tap.next_sequence_number == 0
    tap.feed(b'data: {"sequence_number":6}\n\ndata: {"sequence_number":7}\n\n')
    assert tap.next_sequence_number == 8
    tap.feed(b'event: error\ndata: {"sequence_number":8}\n\n')
    assert tap.next_sequence_number == 8
