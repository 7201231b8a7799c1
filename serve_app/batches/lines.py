"""The lines of a batch's file, in and out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from serve_app.batches.batch import LineFault, LineResult

METHOD = "POST"
CUSTOM_ID_CHARS_MAX = 512
KEYS = ("custom_id", "method", "url", "body")


class LineRefused(Exception):
    """A line is no call of its batch."""

    def __init__(self, fault: LineFault) -> None:
        super().__init__(fault)
        self.fault = fault


@dataclass(frozen=True, slots=True)
class BatchLine:
    """One call of a batch; `number` is its line in the file, from 1 on."""

    number: int
    custom_id: str
    body: bytes


@dataclass(frozen=True, slots=True)
class LineAnswer:
    """The answer to one line. `headers` say how the call was routed."""

    status: int
    request_id: str
    body: bytes
    headers: Mapping[str, str]
    retry_after_s: float | None = None


def parse_line(raw: bytes, number: int, endpoint: str) -> BatchLine:
    """One line of a batch for an endpoint.

    Raises:
        LineRefused: names what is wrong.
    """
    try:
        document = orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise _refuse("invalid_json_line", "The line is not valid JSON.", None, number) from None
    if not isinstance(document, dict):
        raise _refuse("invalid_json_line", "The line is not a JSON object.", None, number)
    _check_keys(document, number)
    if document["method"] != METHOD:
        raise _wrong("method", f"'{METHOD}'", number)
    if document["url"] != endpoint:
        message = f"Invalid value for 'url': expected the batch's endpoint, '{endpoint}'."
        raise _refuse("mismatched_endpoint", message, "url", number)
    return BatchLine(number, document["custom_id"], orjson.dumps(document["body"]))


def _check_keys(document: Mapping[str, Any], number: int) -> None:
    for key in KEYS:
        if key not in document:
            message = f"Missing required parameter: '{key}'."
            raise _refuse("missing_required_parameter", message, key, number)
    for key in document:
        if key not in KEYS:
            message = f"Unknown parameter: '{key[:100]}'. A line has {', '.join(KEYS)}."
            raise _refuse("unknown_parameter", message, key[:100], number)
    custom_id = document["custom_id"]
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= CUSTOM_ID_CHARS_MAX:
        raise _wrong("custom_id", f"a string of 1 to {CUSTOM_ID_CHARS_MAX} characters", number)
    if not isinstance(document["body"], dict):
        raise _wrong("body", "an object", number)
    if document["body"].get("stream"):
        raise _wrong("body.stream", "false: the answer of a line is never a stream", number)


def _wrong(param: str, expected: str, number: int) -> LineRefused:
    message = f"Invalid value for '{param}': expected {expected}."
    return _refuse("invalid_value", message, param, number)


def _refuse(code: str, message: str, param: str | None, number: int) -> LineRefused:
    return LineRefused(LineFault(code, message, param, number))


def read_custom_id(raw: bytes) -> str:
    """The `custom_id` of a line that has been validated; empty if the line is cut by now."""
    try:
        found: str = orjson.loads(raw)["custom_id"]
    except orjson.JSONDecodeError:
        return ""
    return found


def render_answer(batch_id: str, line: BatchLine, answer: LineAnswer) -> LineResult:
    """The answer to a line, in OpenAI's form. `headers` is an addition of this service."""
    response = {
        "status_code": answer.status,
        "request_id": answer.request_id,
        "headers": dict(answer.headers),
        "body": _parse_body(answer.body),
    }
    document = _render(batch_id, line.number, line.custom_id, response, None)
    return LineResult(line.number, 200 <= answer.status < 300, document)


def render_undone(batch_id: str, number: int, custom_id: str, code: str, message: str) -> bytes:
    """A line without an answer, in OpenAI's form."""
    return _render(batch_id, number, custom_id, None, {"code": code, "message": message})


def read_status(raw: bytes) -> str:
    """The status of a background response, from the one line of its output file."""
    body = orjson.loads(raw)["response"]["body"]
    status = body.get("status") if isinstance(body, dict) else None
    return status if status in ("incomplete", "failed") else "completed"


def _render(
    batch_id: str,
    number: int,
    custom_id: str,
    response: Mapping[str, Any] | None,
    error: Mapping[str, str] | None,
) -> bytes:
    document = {
        "id": request_id_of(batch_id, number),
        "custom_id": custom_id,
        "response": response,
        "error": error,
    }
    return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)


def request_id_of(batch_id: str, number: int) -> str:
    """The id of a line's call, in the files, the logs and the audit."""
    return f"batch_req_{batch_id.removeprefix('batch_')}_{number}"


def _parse_body(body: bytes) -> object:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return body.decode("utf-8", "replace")
