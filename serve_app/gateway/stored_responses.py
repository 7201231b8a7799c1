"""Rejects requests for the stored state of the Responses API, which this service does not keep.

An engine that stored responses would store them in one replica, for ever, but the next call may go
to another replica. So each request for stored state gets an error that says what to send instead
(docs/decisions/0009-responses-are-not-stored.md). `background.py` has the exception: where the
config keeps batches, the answer of a call with `background: true` is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from serve_app.core.errors import NothingStored

FIELDS: Mapping[str, str] = {
    "previous_response_id": "previous_response_not_found",
    "conversation": "unsupported_parameter",
    "background": "unsupported_parameter",
    "prompt": "unsupported_parameter",
}
"""The fields that need stored state, and the error code of each."""


def check_nothing_stored(document: Mapping[str, Any]) -> None:
    """Accept a body of the Responses API only if it needs no stored state.

    Raises:
        NothingStored: the body asks for stored state; names the field.
    """
    for field, code in FIELDS.items():
        if document.get(field):
            raise NothingStored(field, code)
    for param in _references(document.get("input")):
        raise NothingStored(param, "unsupported_value")


def _references(items: object) -> Iterator[str]:
    """The places of input items that only name a stored item; such items may have no `type`."""
    for index, item in enumerate(items if isinstance(items, list) else ()):
        if not isinstance(item, dict):
            continue
        kind = item.get("type")
        if kind == "item_reference" or (kind is None and item.keys() == {"id"}):
            yield f"input[{index}]"
