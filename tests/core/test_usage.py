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
