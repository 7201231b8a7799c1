"""`/v1/responses/input_tokens`: asks an engine's `/tokenize`, which renders the same prompt.

vLLM counts no tokens in the form of the Responses API. Its `/v1/responses` turns the input into
chat messages, and this module makes the same messages for `/tokenize`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from serve_app.core.errors import InvalidField, UpstreamFailed

Json = dict[str, Any]

TEXT_PARTS = frozenset({"input_text", "output_text", "summary_text", "reasoning_text", "text"})
NO_FUNCTION_KEYS = frozenset({"type", "function"})


def render_tokenize(document: Mapping[str, Any]) -> bytes:
    """The body for `/tokenize` that has the same tokens as a body for `/v1/responses`.

    Raises:
        InvalidField: the input or the tools have a form that cannot be counted.
    """
    tools = [] if document.get("tools") is None else document["tools"]
    if not isinstance(tools, list):
        raise InvalidField("tools", "a list")
    body: Json = {"messages": _messages(document), "chat_template_kwargs": _template(document)}
    if _is_continued(document.get("input")):
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    if "model" in document:
        body["model"] = document["model"]
    if functions := [_tool(tool) for tool in tools if _is_function(tool)]:
        body["tools"] = functions
    return orjson.dumps(body)


def render_count(body: bytes) -> bytes:
    """OpenAI's token count, from the answer of `/tokenize`.

    Raises:
        UpstreamFailed: the answer holds no count.
    """
    try:
        count = orjson.loads(body)["count"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        raise UpstreamFailed from None
    return orjson.dumps({"object": "response.input_tokens", "input_tokens": count})


def _template(document: Mapping[str, Any]) -> Json:
    """The arguments that `/v1/responses` gives the chat template for the requested effort."""
    reasoning, kwargs = document.get("reasoning"), document.get("chat_template_kwargs")
    effort = reasoning.get("effort") if isinstance(reasoning, dict) else None
    asked = kwargs if isinstance(kwargs, dict) else {}
    if effort is None:
        return {**asked}
    return {"reasoning_effort": effort, "enable_thinking": effort != "none", **asked}


def _is_continued(items: object) -> bool:
    """Whether the model is to continue the last message, which is its own and unfinished."""
    last = items[-1] if isinstance(items, list) and items else None
    if not isinstance(last, dict) or last.get("type", "message") not in ("message", "reasoning"):
        return False
    return last.get("status") in ("in_progress", "incomplete")


def _is_function(tool: object) -> bool:
    return isinstance(tool, dict) and tool.get("type") == "function"


def _tool(tool: Json) -> Json:
    function = {key: value for key, value in tool.items() if key not in NO_FUNCTION_KEYS}
    return {"type": "function", "function": function}


def _messages(document: Mapping[str, Any]) -> list[Json]:
    messages: list[Json] = []
    if instructions := document.get("instructions"):
        messages.append({"role": "system", "content": instructions})
    items = document.get("input")
    if isinstance(items, str):
        return [*messages, {"role": "user", "content": items}]
    if not isinstance(items, list) or not items:
        raise InvalidField("input", "a string or a list of items")
    for index, item in enumerate(items):
        if not isinstance(item, dict):
            raise InvalidField(f"input[{index}]", "an object")
        _add(messages, item)
    return messages


def _add(messages: list[Json], item: Json) -> None:
    """Append an item; an assistant's reasoning, text and calls in a row become one message."""
    kind = item.get("type")
    if kind == "function_call_output":
        output = item.get("output")
        message = {"role": "tool", "tool_call_id": item.get("call_id"), "content": _content(output)}
    elif kind == "function_call":
        message = {"role": "assistant", "tool_calls": [_tool_call(item)]}
    elif kind == "reasoning":
        message = {"role": "assistant", "reasoning": _reasoning(item)}
    elif item.get("role") == "assistant":
        message = {"role": "assistant", "content": _first_text(item.get("content"))}
    else:
        message = {"role": item.get("role", "user"), "content": _content(item.get("content"))}
    if not _merged(messages, message):
        messages.append(message)


def _merged(messages: list[Json], message: Json) -> bool:
    last = messages[-1] if messages else {}
    if message["role"] != "assistant" or last.get("role") != "assistant":
        return False
    key = next(key for key in message if key != "role")
    if key == "tool_calls":
        last.setdefault(key, []).extend(message[key])
    elif last.get(key) is None:
        last[key] = message[key]
    else:
        return False
    return True


def _tool_call(item: Json) -> Json:
    function = {"name": item.get("name"), "arguments": item.get("arguments")}
    return {"id": item.get("call_id"), "type": "function", "function": function}


def _reasoning(item: Json) -> str:
    for key in ("content", "summary"):
        if text := _first_text(item.get(key)):
            return text
    return ""


def _first_text(content: object) -> str:
    """An assistant's earlier text: vLLM renders only its first part."""
    if isinstance(content, str):
        return content
    first = content[0] if isinstance(content, list) and content else None
    text = first.get("text") if isinstance(first, dict) else None
    return text if isinstance(text, str) else ""


def _content(content: object) -> object:
    return list(_parts(content)) if isinstance(content, list) else content


def _parts(content: Iterable[object]) -> Iterable[object]:
    for part in content:
        if not isinstance(part, dict):
            yield part
        elif isinstance(kind := part.get("type"), str) and kind in TEXT_PARTS:
            yield {"type": "text", "text": part.get("text")}
        elif part.get("type") == "input_image":
            yield {"type": "image_url", "image_url": {"url": part.get("image_url")}}
        else:
            yield part
