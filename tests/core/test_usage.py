"""Usage is read off the bytes as they pass, whatever their pieces."""

from __future__ import annotations

import orjson
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
        (
            {
                "prompt_tokens": 20,
                "total_tokens": 22,
                "completion_tokens": 2,
                "prompt_tokens_details": {"cached_tokens": 16, "created_cache_tokens": 4},
            },
            20,
            16,
        ),
        ({"prompt_tokens": 20, "prompt_tokens_details": {"cached_tokens": 0}}, 20, 0),
        ({"prompt_tokens": 20, "prompt_tokens_details": None}, 20, None),
        (
            {
                "input_tokens": 20,
                "input_tokens_details": {"cached_tokens": 16, "cached_tokens_per_turn": [16]},
                "output_tokens": 2,
            },
            20,
            16,
        ),
        ({"input_tokens": 4, "output_tokens": 2, "cache_read_input_tokens": 16}, 20, 16),
        (
            {
                "input_tokens": 1,
                "output_tokens": 2,
                "cache_creation_input_tokens": 3,
                "cache_read_input_tokens": 16,
            },
            20,
            16,
        ),
        ({"input_tokens": 20, "output_tokens": 2, "cache_read_input_tokens": None}, 20, None),
    ],
)
def test_cached_tokens(usage: dict[str, object], prompt: int, cached: int | None) -> None:
    """In every dialect, the prompt counts whole; the part that was cached is known apart."""
    found = Usage()
    read_usage(orjson.dumps({"usage": usage, "id": "x"}), found)
    assert (found.prompt_tokens, found.cached_tokens) == (prompt, cached)


@pytest.mark.parametrize("cached", [None, 5])
def test_cached_tokens_as_vllm_writes_them(cached: int | None) -> None:
    """The pinned engine's own models write the usage that is read here."""
    engine = pytest.importorskip("vllm.entrypoints.serve.engine.protocol")
    anthropic = pytest.importorskip("vllm.entrypoints.anthropic.serving")
    details = engine.PromptTokenUsageInfo(cached_tokens=cached)
    reported = engine.UsageInfo(
        prompt_tokens=9,
        completion_tokens=1,
        total_tokens=10,
        prompt_tokens_details=details if cached is not None else None,
    )
    translated = anthropic._build_anthropic_usage(reported)
    for document in (reported, translated):
        found = Usage()
        read_usage(b'{"usage":' + document.model_dump_json().encode() + b"}", found)
        assert (found.prompt_tokens, found.cached_tokens) == (9, cached)


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
