"""Reads the token usage of an answer as the answer passes.

All four dialects name the counts alike: `prompt_tokens` or `input_tokens`, `completion_tokens` or
`output_tokens`, in an object after the key `"usage"`. In text that a model wrote every quote is
escaped, so these byte patterns cannot match there.

The tokens that the prefix cache held are `cached_tokens` in the details of the count; vLLM reports
them to chat, completions and messages if the engine has `enable_prompt_tokens_details`, to
responses always. Anthropic's dialect counts them apart: `input_tokens` leaves them out.
"""

from __future__ import annotations

import re

from serve_app.core.call import Usage

USAGE_KEY = b'"usage":{'
PROMPT_TOKENS = re.compile(rb'"(?:prompt|input)_tokens":(\d+)')
COMPLETION_TOKENS = re.compile(rb'"(?:completion|output)_tokens":(\d+)')
CACHED_TOKENS = re.compile(rb'"cached_tokens":(\d+)')
APART_TOKENS = re.compile(rb'"cache_(read|creation)_input_tokens":(\d+)')


def read_usage(data: bytes, usage: Usage) -> None:
    """Take the counts of the last usage object in `data`, if there is one."""
    start = data.rfind(USAGE_KEY)
    if start < 0:
        return
    prompt = PROMPT_TOKENS.search(data, start)
    if prompt is not None:
        usage.prompt_tokens = int(prompt[1])
        _read_cached(data, start, usage)
    completion = COMPLETION_TOKENS.search(data, start)
    if completion is not None:
        usage.completion_tokens = int(completion[1])


def _read_cached(data: bytes, start: int, usage: Usage) -> None:
    cached = CACHED_TOKENS.search(data, start)
    if cached is not None:
        usage.cached_tokens = int(cached[1])
        return
    apart = {kind: int(count) for kind, count in APART_TOKENS.findall(data, start)}
    if apart:
        usage.prompt_tokens = (usage.prompt_tokens or 0) + sum(apart.values())
        usage.cached_tokens = apart.get(b"read")
