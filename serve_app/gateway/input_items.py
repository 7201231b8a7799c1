"""The input of a background response as a list of items, as OpenAI's API shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from serve_app.core.errors import InvalidField

PREFIXES: Mapping[str, str] = {
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "reasoning": "rs",
}
OTHER_PREFIX = "item"


def render_items(response_id: str, given: object) -> list[dict[str, Any]]:
    """The items of a call's `input`, in its order. An item without an id gets one that stays."""
    items = given if isinstance(given, list) else [{"role": "user", "content": given}]
    name = response_id.rpartition("_")[2]
    numbered = enumerate(item for item in items if isinstance(item, dict))
    return [_render_item(item, f"{name}_{n}") for n, item in numbered]


def _render_item(item: Mapping[str, Any], name: str) -> dict[str, Any]:
    kind = item.get("type")
    kind = kind if isinstance(kind, str) else "message"
    item_id = item.get("id") or f"{PREFIXES.get(kind, OTHER_PREFIX)}_{name}"
    rendered = {**item, "type": kind, "id": item_id}
    if kind == "message":
        rendered["status"] = item.get("status") or "completed"
        rendered["content"] = _render_content(item.get("role"), item.get("content"))
    return rendered


def _render_content(role: object, content: object) -> object:
    """A text alone is short for a list with one part."""
    if not isinstance(content, str):
        return content
    if role == "assistant":
        return [{"type": "output_text", "text": content, "annotations": []}]
    return [{"type": "input_text", "text": content}]


def choose_page(
    items: Sequence[dict[str, Any]], *, after: str | None, limit: int, newest: bool
) -> Sequence[dict[str, Any]]:
    """The items after the one with the id `after`, and one more than the limit if there is.

    Raises:
        InvalidField: no item has this id.
    """
    ordered = [*reversed(items)] if newest else [*items]
    if after is None:
        return ordered[: limit + 1]
    ids = [item["id"] for item in ordered]
    if after not in ids:
        raise InvalidField("after", "the id of an item of this response")
    begin = ids.index(after) + 1
    return ordered[begin : begin + limit + 1]
