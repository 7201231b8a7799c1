"""Bounds on the fields that cost an engine work and that routing does not read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from serve_app.config.bodies import BodiesConfig, CountsConfig
from serve_app.core.call import Endpoint
from serve_app.core.errors import InvalidField, RefusedField, TooMany

Json = dict[str, Any]
Check = Callable[[Any, str, BodiesConfig], None]

VARIABLE_CHARS_MAX = 256
ENCODINGS = ("float", "base64")
TEXTS = "documents"
"""Texts beside a chat; on `/v1/rerank` the texts themselves, which `texts.py` bounds."""
TRANSFER_KEYS = frozenset({"ec_transfer_params", "kv_transfer_params"})
OWN_TOOL_TYPES = frozenset(
    {"apply_patch", "custom", "function", "local_shell", "namespace", "shell", "tool_search"}
)
"""Tools of Responses that the client runs."""
ENGINE_TOOL_TYPES = frozenset(
    {
        "code_interpreter", "computer", "computer_use_preview", "container", "file_search",
        "image_generation", "web_search", "web_search_2025_08_26", "web_search_preview",
        "web_search_preview_2025_03_11",
    }
)  # fmt: skip
"""Tools that a server runs; vLLM runs them if its operator gives it a tool server."""


def check_values(endpoint: Endpoint, document: Json, config: BodiesConfig) -> None:
    """Raise BadRequest if a field exceeds its bound."""
    for name in document.keys() & CHECKS.keys():
        if document[name] is not None and not (endpoint.pools and name == TEXTS):
            CHECKS[name](document[name], name, config)


def admit_tools(endpoint: Endpoint, document: Json, config: BodiesConfig) -> Json:
    """The body without the tools that a server would run; the same object if it has no such tool.

    Raises:
        RefusedField: a tool names a server to call, or its type is unknown.
    """
    tools = document.get("tools")
    if not tools or endpoint not in SERVER_TOOL_ENDPOINTS:
        return document
    kept = [tool for index, tool in enumerate(tools) if _stays(tool, f"tools[{index}]", config)]
    if len(kept) == len(tools):
        return document
    return {**document, "tools": kept}


SERVER_TOOL_ENDPOINTS = frozenset({Endpoint.RESPONSES, Endpoint.MESSAGES, Endpoint.COUNT_TOKENS})


def _stays(tool: object, param: str, config: BodiesConfig) -> bool:
    if not isinstance(tool, dict):
        raise InvalidField(param, "an object")
    kind = tool.get("type")
    if kind is None or kind in ("custom", "function"):
        return True
    if not isinstance(kind, str):
        raise InvalidField(f"{param}.type", "a string")
    if kind in OWN_TOOL_TYPES or "server_tools" in config.allowed_fields:
        return True
    if kind in ENGINE_TOOL_TYPES:
        return False
    raise RefusedField(f"{param}.type", "this service does not run a server's tools")


def _check_int(low: int, high: Callable[[CountsConfig], int]) -> Check:
    def check(value: Any, param: str, config: BodiesConfig) -> None:
        high_value = high(config.counts)
        if type(value) is not int or not low <= value <= high_value:
            raise InvalidField(param, f"an integer from {low} to {high_value}")

    return check


def _check_encoding(value: Any, param: str, config: BodiesConfig) -> None:
    """Reject the encodings of vLLM whose answers are not JSON, and hold their usage elsewhere."""
    if value not in ENCODINGS:
        raise InvalidField(param, "'float' or 'base64'")


def _check_list(length: Callable[[CountsConfig], int], chars: bool = False) -> Check:
    def check(value: Any, param: str, config: BodiesConfig) -> None:
        if not isinstance(value, list):
            raise InvalidField(param, "a list")
        if len(value) > length(config.counts):
            raise TooMany(param, "items", length(config.counts))
        if chars:
            for item in value:
                _check_chars(item, param, config)

    return check


def _check_chars(value: object, param: str, config: BodiesConfig) -> None:
    if not isinstance(value, str):
        raise InvalidField(param, "a string or a list of strings")
    if len(value) > config.counts.stop_chars_max:
        raise TooMany(param, "characters each", config.counts.stop_chars_max)


def _check_stop(value: Any, param: str, config: BodiesConfig) -> None:
    if isinstance(value, str):
        _check_chars(value, param, config)
    else:
        _STOPS(value, param, config)


def _check_logprobs(value: Any, param: str, config: BodiesConfig) -> None:
    """Check `logprobs`, which is a flag in chat and a number in completions."""
    if not isinstance(value, bool):
        _LOGPROBS(value, param, config)


def _check_bias(value: Any, param: str, config: BodiesConfig) -> None:
    if not isinstance(value, dict):
        raise InvalidField(param, "an object")
    if len(value) > config.counts.biases_max:
        raise TooMany(param, "entries", config.counts.biases_max)


def _check_variables(value: Any, param: str, config: BodiesConfig) -> None:
    if not isinstance(value, dict):
        raise InvalidField(param, "an object")
    for name, item in value.items():
        path = f"{param}.{name[:64]}"
        if name not in config.template_variables:
            raise RefusedField(path, "`bodies.template_variables` does not name it")
        plain = item is None or isinstance(item, bool | int | float)
        if not plain and not (isinstance(item, str) and len(item) <= VARIABLE_CHARS_MAX):
            raise InvalidField(path, f"a plain value of up to {VARIABLE_CHARS_MAX} characters")


def _check_repetition(value: Any, param: str, config: BodiesConfig) -> None:
    if not isinstance(value, dict):
        raise InvalidField(param, "an object")
    for name in ("max_pattern_size", "min_pattern_size", "min_count"):
        if value.get(name) is not None:
            _REPETITION(value[name], f"{param}.{name}", config)


def _check_extras(value: Any, param: str, config: BodiesConfig) -> None:
    """Reject refused fields also under `vllm_xargs`, whatever the operator lets through."""
    if not isinstance(value, dict):
        raise InvalidField(param, "an object")
    for name in value.keys() & TRANSFER_KEYS:
        raise RefusedField(f"{param}.{name}", "an engine would take a prompt's cache from there")


_STOPS = _check_list(lambda counts: counts.stops_max, chars=True)
_LOGPROBS = _check_int(0, lambda counts: counts.logprobs_max)
_REPETITION = _check_int(0, lambda counts: counts.repetition_max)

CHECKS: Mapping[str, Check] = {
    "allowed_token_ids": _check_list(lambda counts: counts.allowed_tokens_max),
    "bad_words": _check_list(lambda counts: counts.bad_words_max, chars=True),
    "chat_template_kwargs": _check_variables,
    TEXTS: _check_list(lambda counts: counts.documents_max),
    "encoding_format": _check_encoding,
    "logit_bias": _check_bias,
    "logprob_token_ids": _check_list(lambda counts: counts.logprobs_max),
    "logprobs": _check_logprobs,
    "n": _check_int(1, lambda counts: counts.choices_max),
    "prompt_logprobs": _LOGPROBS,
    "repetition_detection": _check_repetition,
    "stop": _check_stop,
    "stop_sequences": _STOPS,
    "stop_token_ids": _check_list(lambda counts: counts.stops_max),
    "top_logprobs": _LOGPROBS,
    "vllm_xargs": _check_extras,
}
