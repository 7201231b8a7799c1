"""Anthropic's `tool_choice: {"type": "tool"}`: the answer's `stop_reason` must be `tool_use`.

vLLM turns the call into a chat completion. OpenAI ends a call of one named tool with `stop`, which
vLLM translates to `end_turn`. A client that loops while `stop_reason` is `tool_use` would then not
run the tool.
"""

from __future__ import annotations

from typing import Any

import orjson

from serve_app.core.call import Endpoint

TOOL_CHOICE = b'"tool_choice"'


def forces_tool(endpoint: Endpoint, body: bytes) -> bool:
    """Whether a call obliges the model to use one tool, in Anthropic's dialect."""
    if endpoint is not Endpoint.MESSAGES or TOOL_CHOICE not in body:
        return False
    try:
        choice = orjson.loads(body).get("tool_choice")
    except (orjson.JSONDecodeError, AttributeError):
        return False
    return isinstance(choice, dict) and choice.get("type") == "tool"


def mend_stop_reason(body: bytes) -> bytes:
    """The whole answer to a call that forces a tool, with Anthropic's documented stop reason."""
    try:
        message = orjson.loads(body)
    except orjson.JSONDecodeError:
        return body
    if not isinstance(message, dict) or message.get("stop_reason") != "end_turn":
        return body
    return orjson.dumps({**message, "stop_reason": "tool_use"}) if _uses_tool(message) else body


def _uses_tool(message: dict[str, Any]) -> bool:
    content = message.get("content")
    blocks = content if isinstance(content, list) else []
    return any(isinstance(block, dict) and block.get("type") == "tool_use" for block in blocks)
