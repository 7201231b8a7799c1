"""Reads the token usage of an answer as the answer passes.

All four dialects name the counts alike: `prompt_tokens` or `input_tokens`, `completion_tokens` or
`output_tokens`, in an object after the key `"usage"`. In text that a model wrote every quote is
escaped, so these byte patterns cannot match there.
"""

from __future__ import annotations

import re

from serve_app.core.call import Usage

USAGE_KEY = b'"usage":{'
PROMPT_TOKENS = re.compile(rb'"(?:prompt|input)_tokens":(\d+)')
COMPLETION_TOKENS = re.compile(rb'"(?:completion|output)_tokens":(\d+)')


def read_usage(data: bytes, usage: Usage) -> None:
    """Take the counts of the last usage object in `data`, if there is one."""
    start = data.rfind(USAGE_KEY)
    if start < 0:
        return
    prompt = PROMPT_TOKENS.search(data, start)
    if prompt is not None:
        usage.prompt_tokens = int(prompt[1])
    completion = COMPLETION_TOKENS.search(data, start)
    if completion is not None:
        usage.completion_tokens = int(completion[1])
