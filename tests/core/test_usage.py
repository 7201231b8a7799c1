"""Usage is read off the bytes as they pass, whatever their pieces."""

from __future__ import annotations

import pytest

from serve_app.core.call import Usage
from serve_app.core.usage import read_usage


@pytest.mark.parametrize(
    ("body", "prompt", "completion"),
    [
        (b'{"usage":{"prompt_tokens":3,"completion_tokens":4}}', 3, 4),
        (b'{"usage":{"input_tokens":3,"input_tokens_details":{"x":1},"output_tokens":4}}', 3, 4),
        (b'{"usage":{"prompt_tokens":9,"total_tokens":9}}', 9, None),
        (b'{"choices":[{"text":"\\"usage\\":{\\"prompt_tokens\\":1}"}]}', None, None),
        (b"{}", None, None),
    ],
)
def test_read_usage(body: bytes, prompt: int | None, completion: int | None) -> None:
    """All dialects' counts are found, and text that imitates them is not."""
    usage = Usage()
    read_usage(body, usage)
    assert (usage.prompt_tokens, usage.completion_tokens) == (prompt, completion)


@pytest.mark.parametrize(
    ("usage", "prompt", "cached"),
    [
        (b'{"prompt_tokens":9,"prompt_tokens_details":{"cached_tokens":6}}', 9, 6),
        (b'{"input_tokens":9,"input_tokens_details":{"cached_tokens":6}}', 9, 6),
        (b'{"input_tokens":3,"output_tokens":1,"cache_read_input_tokens":6}', 9, 6),
        (
            b'{"input_tokens":3,"cache_creation_input_tokens":2,"cache_read_input_tokens":6}',
            11,
            6,
        ),
        (b'{"prompt_tokens":9,"prompt_tokens_details":null}', 9, None),
    ],
)
def test_read_cached_tokens(usage: bytes, prompt: int, cached: int | None) -> None:
    """Tokens of the prefix cache belong to the prompt, also where Anthropic's dialect counts them
    apart."""
    found = Usage()
    read_usage(b'{"usage":' + usage + b"}", found)
    assert (found.prompt_tokens, found.cached_tokens) == (prompt, cached)


STREAM_ENDS = {
    "chat": b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":5}}\n\n',
    "responses": b'event: response.completed\ndata: {"type":"response.completed","response":'
    b'{"id":"r","usage":{"input_tokens":7,"input_tokens_details":{"cached_tokens":0},'
    b'"output_tokens":5,"total_tokens":12}}}\n\n',
    "messages": b'event: message_start\ndata: {"type":"message_start","message":{"usage":'
    b'{"input_tokens":7,"output_tokens":0}}}\n\nevent: message_delta\ndata: {"type":'
    b'"message_delta","delta":{},"usage":{"input_tokens":7,"output_tokens":5}}\n\n',
}


@pytest.mark.parametrize("events", STREAM_ENDS.values(), ids=STREAM_ENDS)
def test_read_usage_of_streams(events: bytes) -> None:
    """Each dialect reports its counts in another event; the last report counts."""
    usage = Usage()
    read_usage(events, usage)
    assert (usage.prompt_tokens, usage.completion_tokens) == (7, 5)
