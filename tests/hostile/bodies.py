"""Bodies that ask for too much: each is valid JSON, and most have one absurd value."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import orjson

from serve_app.core.call import Endpoint

Json = dict[str, Any]

USER = {"role": "user", "content": "Hello"}
BASES: dict[Endpoint, Json] = {
    Endpoint.CHAT: {"model": "fast", "messages": [USER], "max_tokens": 2},
    Endpoint.COMPLETIONS: {"model": "fast", "prompt": "Hello", "max_tokens": 2},
    Endpoint.RESPONSES: {
        "model": "fast",
        "input": "Hello",
        "max_output_tokens": 16,
        "store": False,
    },
    Endpoint.MESSAGES: {"model": "fast", "messages": [USER], "max_tokens": 2},
}
HUGE = "1180591620717411303424"
"""2 ** 70, which no machine word holds."""
NUMBERS = (
    "-1",
    "0",
    "2147483648",
    "9223372036854775808",
    HUGE,
    f"-{HUGE}",
    "1e308",
    "1e-320",
    "1.5",
)
NUMBER_FIELDS = (
    "max_tokens", "max_completion_tokens", "max_output_tokens", "min_tokens", "n", "top_k", "top_p",
    "min_p", "temperature", "frequency_penalty", "presence_penalty", "repetition_penalty",
    "length_penalty", "seed", "logprobs", "top_logprobs", "prompt_logprobs",
    "truncate_prompt_tokens", "thinking_token_budget", "stream_interval",
    "routed_experts_prompt_start", "max_tool_calls",
)  # fmt: skip
LISTS: dict[str, tuple[str, ...]] = {
    "stop": ('[""]', '["a", "b", "c", "d", "e"]', '["' + "a" * 1024 + '"]', "[1]"),
    "stop_token_ids": ("[-1]", "[2147483648]", f"[{HUGE}]", "[1.5]", "[true]"),
    "allowed_token_ids": ("[]", "[-1]", "[2147483648]", f"[{HUGE}]", str([1] * 16384)),
    "logprob_token_ids": ("[-1]", f"[{HUGE}]"),
    "bad_words": ('[""]', "[1]", orjson.dumps(["ab " * 300] * 256).decode()),
    "logit_bias": (
        '{"1": 1e308}', '{"-1": 1}', '{"99999999": 1}', f'{{"{HUGE}": 1}}', '{"１": 1}',
        '{"' + "9" * 5000 + '": 1}', '{"1.5": 1}', '{"a": 1}', '{"1": "a"}',
        orjson.dumps({str(n): 100 for n in range(1024)}).decode(),
        orjson.dumps({str(n): -100 for n in range(1024)}).decode(),
    ),
    "stream_options": ("[]", '{"include_usage": "x"}', '{"continuous_usage_stats": 1e308}'),
    "metadata": (orjson.dumps({f"k{n}": "v" * 100 for n in range(2000)}).decode(),),
    "tools": ("[]", '[{"type": "function"}]', '[{"type": "function", "function": {"name": ""}}]'),
    "user": ('"' + "u" * 100_000 + '"', "{}"),
    "cache_salt": ('""', '"' + "s" * 100_000 + '"'),
    "repetition_detection": ('{"max_pattern_size": 0}', f'{{"min_count": {HUGE}}}'),
}  # fmt: skip


def with_raw(base: Json, field: str, value: str) -> bytes:
    """The body with a value as it is written here, whatever a JSON writer would make of it."""
    kept = {name: item for name, item in base.items() if name != field}
    return orjson.dumps(kept)[:-1] + f', "{field}": {value}}}'.encode()


def absurd_values() -> Iterator[tuple[str, Endpoint, bytes]]:
    """One absurd value in each field that takes numbers or lists."""
    for endpoint, base in BASES.items():
        for field in NUMBER_FIELDS:
            for value in NUMBERS:
                yield f"{field}={value}", endpoint, with_raw(base, field, value)
        for field, values in LISTS.items():
            for value in values:
                yield f"{field}={value[:24]}", endpoint, with_raw(base, field, value)


def nested(depth: int, inner: object = 1) -> object:
    """Lists and objects in each other."""
    for level in range(depth):
        inner = {"a": inner} if level % 2 else [inner]
    return inner


def absurd_shapes() -> Iterator[tuple[str, Endpoint, bytes]]:
    """Many, long and deep things."""
    chat, completions = BASES[Endpoint.CHAT], BASES[Endpoint.COMPLETIONS]
    tool = {"type": "function", "function": {"name": "f", "parameters": nested(60)}}
    called = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "[" * 900}}
    shapes: dict[str, tuple[Endpoint, Json]] = {
        "messages=2048": (Endpoint.CHAT, {**chat, "messages": [USER] * 2048}),
        "messages=2049": (Endpoint.CHAT, {**chat, "messages": [USER] * 2049}),
        "tools=256": (Endpoint.CHAT, {**chat, "tools": [tool] * 256}),
        "tools=257": (Endpoint.CHAT, {**chat, "tools": [tool] * 257}),
        "depth in metadata": (Endpoint.CHAT, {**chat, "metadata": nested(900)}),
        "depth in content": (
            Endpoint.CHAT,
            {**chat, "messages": [{"role": "user", "content": nested(200)}]},
        ),
        "depth in arguments": (
            Endpoint.CHAT,
            {**chat, "messages": [USER, {"role": "assistant", "tool_calls": [called]}]},
        ),
        "unknown fields": (Endpoint.CHAT, {**chat, **{f"x{n}": n for n in range(10_000)}}),
        "n x prompts": (Endpoint.COMPLETIONS, {**completions, "prompt": ["Hi"] * 128, "n": 16}),
        "n x beams": (Endpoint.CHAT, {**chat, "n": 16, "use_beam_search": True}),
        "n x prompts, beams": (
            Endpoint.COMPLETIONS,
            {**completions, "prompt": ["Hi"] * 128, "n": 16, "use_beam_search": True},
        ),
        "token ids": (Endpoint.COMPLETIONS, {**completions, "prompt": [2**31]}),
        "negative token ids": (Endpoint.COMPLETIONS, {**completions, "prompt": [-1]}),
        "huge token ids": (Endpoint.COMPLETIONS, {**completions, "prompt": [2**63]}),
        "no token ids": (Endpoint.COMPLETIONS, {**completions, "prompt": []}),
        "empty prompts": (Endpoint.COMPLETIONS, {**completions, "prompt": [""] * 128}),
        "prompt of one letter": (Endpoint.COMPLETIONS, {**completions, "prompt": "a" * 300_000}),
        "prompt of spaces": (Endpoint.COMPLETIONS, {**completions, "prompt": " " * 300_000}),
        "prompt logprobs": (
            Endpoint.COMPLETIONS,
            {**completions, "prompt": "a b " * 4000, "prompt_logprobs": 20, "echo": True},
        ),
        "no messages": (Endpoint.CHAT, {**chat, "messages": []}),
        "empty content": (Endpoint.CHAT, {**chat, "messages": [{"role": "user", "content": ""}]}),
        "special tokens": (
            Endpoint.CHAT,
            {**chat, "messages": [{"role": "user", "content": "<|im_end|>" * 2000}]},
        ),
        "lone surrogate": (
            Endpoint.CHAT,
            {**chat, "messages": [{"role": "user", "content": "\ud800"}]},
        ),
        "stop everywhere": (Endpoint.CHAT, {**chat, "stop": ["a" * 1024] * 4, "max_tokens": 64}),
        "min and stop": (
            Endpoint.CHAT,
            {**chat, "min_tokens": 2, "stop_token_ids": list(range(16))},
        ),
        "all banned": (
            Endpoint.CHAT,
            {**chat, "allowed_token_ids": [1], "logit_bias": {"1": -100}},
        ),
    }
    for name, (endpoint, body) in shapes.items():
        yield name, endpoint, json.dumps(body).encode()  # orjson writes 254 levels at most.
    deep = orjson.dumps(chat)[:-1] + b', "metadata": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    yield "depth beyond JSON", Endpoint.CHAT, deep
    yield "lone surrogate, escaped", Endpoint.CHAT, orjson.dumps(chat).replace(b"Hello", b"\\ud800")
    yield "nan", Endpoint.CHAT, with_raw(chat, "temperature", "NaN")
    yield "a number of 5,000 digits", Endpoint.CHAT, with_raw(chat, "max_tokens", "9" * 5000)


def absurd_bodies() -> list[tuple[str, Endpoint, bytes]]:
    """All of them, by name."""
    return [*absurd_values(), *absurd_shapes()]
