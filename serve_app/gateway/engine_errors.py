"""Translates an engine's errors into the error objects that OpenAI and Anthropic document.

vLLM has forms of its own: `type` is the name of a Python class, `code` is the HTTP status as a
number, and the error for a body that does not fit the schema is a list of Python dicts that repeat
the body. `RULES` recognises the errors that clients act upon. Every other error keeps the engine's
words, without details of the engine's machine.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import orjson

from serve_app.core.call import Endpoint
from serve_app.core.errors import (
    CONTEXT_LENGTH_EXCEEDED,
    EngineRefused,
    GatewayError,
    NothingStored,
    UpstreamFailed,
)
from serve_app.gateway.validation_errors import Fault, read_faults

MESSAGE_CHARS_MAX = 1000
CHARS_READ_MAX = 65_536
"""The part of an engine's message that is read: vLLM may repeat the request's whole body in it."""

STATUSES = frozenset({400, 401, 403, 404, 413, 429})
"""The client errors that both dialects know; any other 4xx becomes a 400."""

PROMPT_PARAMS = {
    Endpoint.COMPLETIONS: "prompt",
    Endpoint.TOKENIZE: "prompt",
    Endpoint.DETOKENIZE: "tokens",
    Endpoint.EMBEDDINGS: "input",
    Endpoint.RERANK: "documents",
    Endpoint.RESPONSES: "input",
    Endpoint.INPUT_TOKENS: "input",
}
"""The field that holds the prompt; `messages` on every other endpoint."""

PROMPT_NAMES = frozenset({"input_tokens", "input_text", "input_length"})
"""vLLM's own names for the prompt, which are in no request."""

PARAM = re.compile(r"[A-Za-z_][\w.\[\]]{0,99}")
OPERATORS_ADVICE = re.compile(r"VLLM_|(?:^|[\s`])--\w")
SENTENCES = re.compile(r"(?<=[.!?])\s+")
CPP_PREFIX = re.compile(
    r"(?:\[\d\d:\d\d:\d\d\] )?(?<!\S)(?:<path>|\S{1,200}\.(?:cc|cpp|h|rs)):\d+: "
)
"""The place in the engine's source. vLLM itself replaces some of the paths by `<path>`."""

ERROR_CODE_IN_REPR = re.compile(r"'code': 4\d\d\}")

NO_WORDS = "The model refused the request."
NOT_OFFERED = "The model does not offer this endpoint."
NOT_CONFIGURED = "The model is not set up for what the request asks."
REFUSED_IN_STREAM = (
    "The model refused the request. The same request without `stream` is answered with the reason."
)


@dataclass(frozen=True, slots=True)
class EngineError:
    """An engine's error, read from its JSON."""

    endpoint: Endpoint
    status: int
    message: str
    param: str | None = None

    @property
    def prompt_param(self) -> str:
        """The field of the request that holds the prompt."""
        return PROMPT_PARAMS.get(self.endpoint, "messages")


Found = re.Match[str]
Rule = tuple[re.Pattern[str], Callable[[EngineError, Found], GatewayError]]


def translate_refusal(endpoint: Endpoint, status: int, body: bytes) -> GatewayError:
    """The official error for the body of an engine's 4xx answer."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        document = None
    return _translate(_read_error(endpoint, status, document))


def translate_event(endpoint: Endpoint, event: bytes) -> GatewayError:
    """The error for an event by which an engine ends a stream: a client's error or the engine's."""
    start = event.find(b"data: ") + len(b"data: ")
    try:
        document = orjson.loads(event[start:])
    except orjson.JSONDecodeError:
        return UpstreamFailed()
    error = _read_error(endpoint, _status_of(document), document)
    if ERROR_CODE_IN_REPR.search(error.message):
        # vLLM's Anthropic stream cannot read its own error, and quotes both ends of it.
        return EngineRefused(400, REFUSED_IN_STREAM)
    return _translate(error) if 400 <= error.status < 500 else UpstreamFailed()


def _read_error(endpoint: Endpoint, status: int, document: object) -> EngineError:
    if not isinstance(document, dict):
        return EngineError(endpoint, status, "")
    error = document.get("error")
    if not isinstance(error, dict):
        return EngineError(endpoint, status, NOT_OFFERED if status == 404 else "")
    message, param = error.get("message"), error.get("param")
    return EngineError(
        endpoint,
        status,
        message[:CHARS_READ_MAX] if isinstance(message, str) else "",
        param if isinstance(param, str) else None,
    )


def _status_of(document: object) -> int:
    error = document.get("error") if isinstance(document, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) else 500


def _translate(error: EngineError) -> GatewayError:
    if faults := read_faults(error.message):
        return _as_faults(error, faults)
    for pattern, translate in RULES:
        if found := pattern.search(error.message):
            return translate(error, found)
    return _in_its_own_words(error)


def _as_faults(error: EngineError, faults: list[Fault]) -> EngineRefused:
    first = faults[0]
    anthropic = error.endpoint.anthropic
    message = " ".join(fault.render(anthropic=anthropic) for fault in faults)
    param = first.path or _param(error)
    return EngineRefused(400, _bounded(message), first.code, param)


def _in_its_own_words(error: EngineError) -> EngineRefused:
    param = _param(error)
    status = error.status if error.status in STATUSES else 400
    code = "invalid_value" if param is not None and status == 400 else None
    return EngineRefused(status, clean_message(error.message), code, param)


def _param(error: EngineError) -> str | None:
    if error.param in PROMPT_NAMES:
        return error.prompt_param
    if error.param is None or not PARAM.fullmatch(error.param):
        return None
    return None if error.param.startswith("body") else error.param


def clean_message(message: str) -> str:
    """The engine's words, without its source files, its options and its Python."""
    if not message.strip():
        return NO_WORDS
    text = CPP_PREFIX.sub("", _without_extras(message)[: 4 * MESSAGE_CHARS_MAX])
    kept = [part for part in SENTENCES.split(text) if not OPERATORS_ADVICE.search(part)]
    return _bounded(" ".join(kept)) if kept else NOT_CONFIGURED


def _without_extras(message: str) -> str:
    """The message without the parameter and its value, which vLLM repeats at the end."""
    return message.partition(" (parameter=")[0]


def _bounded(message: str) -> str:
    if len(message) <= MESSAGE_CHARS_MAX:
        return message
    return message[: MESSAGE_CHARS_MAX - 3] + "..."


def _context_exceeded(error: EngineError, found: Found) -> EngineRefused:
    groups = found.groupdict()
    limit, prompt = int(groups["limit"]), int(groups["prompt"])
    output = int(groups.get("output") or 0)
    unit = groups.get("unit") or "tokens"
    if error.endpoint.anthropic:
        message = _anthropic_overflow(limit, prompt, output, unit)
    else:
        message = clean_message(error.message)
    return EngineRefused(400, message, CONTEXT_LENGTH_EXCEEDED, error.prompt_param)


def _anthropic_overflow(limit: int, prompt: int, output: int, unit: str) -> str:
    """The two sentences that Anthropic's clients look for.

    vLLM stops counting a prompt that is too long, so its number of tokens is then a lower bound.
    """
    room = limit - output
    if unit == "characters":
        return f"prompt is too long: {prompt} characters, with room for {room} tokens"
    if output > room:
        return (
            f"input length and `max_tokens` exceed context limit: {prompt} + {output} > {limit}, "
            "decrease input length or `max_tokens` and try again"
        )
    return f"prompt is too long: {prompt} tokens > {room} maximum"


def _output_too_long(error: EngineError, found: Found) -> EngineRefused:
    param, asked, limit = found["param"], found["asked"], found["limit"]
    message = f"{param} is too large: {asked}. The model's context holds {limit} tokens."
    if error.endpoint.anthropic:
        message = f"max_tokens: {asked} > {limit}, which is the size of the model's context"
    return EngineRefused(400, message, "invalid_value", param)


def _model_unknown(error: EngineError, found: Found) -> EngineRefused:
    return EngineRefused(404, clean_message(error.message), "model_not_found", "model")


def _response_unknown(error: EngineError, found: Found) -> NothingStored:
    return NothingStored("previous_response_id", "previous_response_not_found")


def _media_unreadable(error: EngineError, found: Found) -> EngineRefused:
    return EngineRefused(400, found[0] + ".", "invalid_image_url", error.prompt_param)


RULES: tuple[Rule, ...] = (
    (
        re.compile(
            r"maximum context length is (?P<limit>\d{1,15}) tokens.{,80}?"
            r"(?P<output>\d{1,15}) output tokens.{,80}?"
            r"(?P<prompt>\d{1,15}) (?P<unit>input tokens|characters)"
        ),
        _context_exceeded,
    ),
    (
        re.compile(
            r"Input length \((?P<prompt>\d{1,15})\) exceeds model's maximum context length "
            r"\((?P<limit>\d{1,15})\)"
        ),
        _context_exceeded,
    ),
    (
        re.compile(
            r"prompt length (?P<prompt>\d{1,15}) exceeds the max_model_len (?P<limit>\d{1,15})"
        ),
        _context_exceeded,
    ),
    (
        re.compile(
            r"prompt \(length (?P<prompt>\d{1,15})\).{,120}? longer than the maximum model length "
            r"of (?P<limit>\d{1,15})"
        ),
        _context_exceeded,
    ),
    (
        re.compile(
            r"(?P<param>max_(?:completion_|output_)?tokens)=(?P<asked>\d{1,15}) cannot be greater "
            r"than \S*?=(?P<limit>\d{1,15})\b"
        ),
        _output_too_long,
    ),
    (re.compile(r"The model `[^`]*` does not exist"), _model_unknown),
    (re.compile(r"^Response with id '.*' not found"), _response_unknown),
    (re.compile(r"Failed to fetch media from URL(?:: HTTP \d+ error)?"), _media_unreadable),
)
"""vLLM 0.29's messages, each with the error that clients know for it. The first match applies.

An engine may repeat text of the client, so no pattern takes a number longer than Python reads.
"""
