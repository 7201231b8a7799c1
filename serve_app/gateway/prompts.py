"""Reads the prompt from a body: one reader for each endpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import orjson

from serve_app.config.bodies import BodiesConfig
from serve_app.core.call import Endpoint, Prompt, Turn
from serve_app.core.errors import InvalidField, MalformedBody, TooMany
from serve_app.gateway.content import ContentReader
from serve_app.gateway.texts import check_tokens, read_rerank, read_score

Json = dict[str, Any]
PromptReader = Callable[[Json, BodiesConfig], Prompt]

SCHEMA_FORMATS = frozenset({"json_schema", "json_object", "structural_tag"})
OUTPUT_LIMITS = ("max_completion_tokens", "max_output_tokens", "max_tokens")


def read_prompt(endpoint: Endpoint, document: Json, config: BodiesConfig) -> Prompt:
    """The prompt of a body.

    Raises:
        BadRequest: the body cannot be read as a body of this endpoint; names the field.
    """
    return READERS[endpoint](document, config)


def detect_endpoint(document: Json) -> Endpoint:
    """The generation endpoint that a body was written for.

    Raises:
        MalformedBody: the body holds no endpoint's prompt.
    """
    if "messages" in document:
        anthropic = "system" in document or "anthropic_version" in document
        return Endpoint.MESSAGES if anthropic else Endpoint.CHAT
    if "input" in document:
        return Endpoint.RESPONSES
    if "prompt" in document:
        return Endpoint.COMPLETIONS
    raise MalformedBody("one of 'messages', 'input' and 'prompt' is expected")


def _read_messages(document: Json, config: BodiesConfig) -> Prompt:
    reader = ContentReader(config)
    if document.get("system") is not None:
        reader.read_text("system", document["system"], "system")
    _read_each_message(reader, read_list(document, "messages", required=True), "messages", config)
    return _prompt(document, reader, config)


def _read_each_message(
    reader: ContentReader, messages: list[Any], param: str, config: BodiesConfig
) -> None:
    check_length(messages, config.counts.messages_max, param)
    for index, message in enumerate(messages):
        reader.read_message(message, f"{param}[{index}]")


def _read_completion(document: Json, config: BodiesConfig) -> Prompt:
    reader = ContentReader(config)
    prompt = document.get("prompt")
    if document.get("prompt_embeds") is not None and prompt is None:
        return _prompt(document, reader, config)
    token_ids = _read_prompts(reader, prompt, config.counts.prompts_max)
    return _prompt(document, reader, config, token_ids, _count_prompts(prompt))


def _count_prompts(prompt: object) -> int:
    """The prompts of a body: a text or a list of token ids is one."""
    return len(prompt) if isinstance(prompt, list) and not _all_ids(prompt) else 1


def _read_prompts(reader: ContentReader, prompt: object, prompts_max: int) -> int:
    """Read one prompt or several, of text or of token ids; returns the number of ids."""
    if isinstance(prompt, str):
        reader.turns.append(Turn("user", prompt))
        return 0
    if not isinstance(prompt, list):
        raise InvalidField("prompt", "a string or a list")
    if _all_ids(prompt):
        return len(prompt)
    check_length(prompt, prompts_max, "prompt")
    reader.turns.extend(Turn("user", part) for part in prompt if isinstance(part, str))
    others = [part for part in prompt if not isinstance(part, str)]
    if not all(isinstance(part, list) and _all_ids(part) for part in others):
        raise InvalidField("prompt", "strings, token ids, or lists of token ids")
    return sum(map(len, others))


def _all_ids(values: list[Any]) -> bool:
    """Whether a list holds only token ids; comparing a `set` of types is quick for long lists."""
    return set(map(type, values)) == {int}


def _read_responses(document: Json, config: BodiesConfig) -> Prompt:
    reader = ContentReader(config)
    instructions = read_text(document, "instructions")
    if instructions:
        reader.turns.append(Turn("system", instructions))
    items = document.get("input")
    if isinstance(items, str):
        reader.turns.append(Turn("user", items))
        return _prompt(document, reader, config)
    if not isinstance(items, list):
        raise InvalidField("input", "a string or a list of items")
    check_length(items, config.counts.messages_max, "input")
    for index, item in enumerate(items):
        reader.read_item(item, f"input[{index}]")
    return _prompt(document, reader, config)


def _read_tokenize(document: Json, config: BodiesConfig) -> Prompt:
    """Bound `prompt` and `messages`: vLLM reads `prompt` where a body holds both."""
    chosen = document.get("messages") is not None
    prompt = (_read_messages if chosen else _read_completion)(document, config)
    text = document.get("prompt")
    chars = sum(len(turn.text) for turn in prompt.turns)
    longest = max(chars, len(text) if isinstance(text, str) else 0)
    if longest > config.counts.tokenize_chars_max:
        param = "messages" if chosen else "prompt"
        raise TooMany(param, "characters", config.counts.tokenize_chars_max)
    return prompt


def _read_detokenize(document: Json, config: BodiesConfig) -> Prompt:
    check_length(
        read_list(document, "tokens", required=False), config.counts.tokenize_chars_max, "tokens"
    )
    return Prompt()


def _read_embeddings(document: Json, config: BodiesConfig) -> Prompt:
    """Read a body for vectors: texts, lists of token ids, messages, or lists of messages."""
    reader = ContentReader(config)
    token_ids = 0
    for param in ("input", "messages"):
        value = document.get(param)
        if isinstance(value, str):
            reader.turns.append(Turn("user", value))
        elif isinstance(value, list) and _all_ids(value):
            token_ids += len(value)
        elif isinstance(value, list):
            check_length(value, config.counts.inputs_max, param)
            token_ids += sum(
                _read_input(reader, item, f"{param}[{index}]", config)
                for index, item in enumerate(value)
            )
        elif value is not None:
            raise InvalidField(param, "a string or a list")
    prompt = Prompt(
        turns=tuple(reader.turns),
        images=len(reader.image_parts),
        image_parts=tuple(reader.image_parts),
        token_ids=token_ids,
    )
    return check_tokens(prompt, "input" if "input" in document else "messages", config)


def _read_input(reader: ContentReader, value: object, param: str, config: BodiesConfig) -> int:
    """Read one of several inputs; returns the number of its token ids."""
    if isinstance(value, str):
        reader.turns.append(Turn("user", value))
    elif isinstance(value, dict):
        reader.read_message(value, param)
    elif isinstance(value, list) and _all_ids(value):
        return len(value)
    elif isinstance(value, list):
        _read_each_message(reader, value, param, config)
    return 0


READERS: Mapping[Endpoint, PromptReader] = {
    Endpoint.CHAT: _read_messages,
    Endpoint.MESSAGES: _read_messages,
    Endpoint.COUNT_TOKENS: _read_messages,
    Endpoint.COMPLETIONS: _read_completion,
    Endpoint.RESPONSES: _read_responses,
    Endpoint.INPUT_TOKENS: _read_responses,
    Endpoint.TOKENIZE: _read_tokenize,
    Endpoint.DETOKENIZE: _read_detokenize,
    Endpoint.EMBEDDINGS: _read_embeddings,
    Endpoint.RERANK: read_rerank,
    Endpoint.SCORE: read_score,
}


def _prompt(
    document: Json,
    reader: ContentReader,
    config: BodiesConfig,
    token_ids: int = 0,
    prompts: int = 1,
) -> Prompt:
    tools = read_list(document, "tools", required=False)
    check_length(tools, config.counts.tools_max, "tools")
    return Prompt(
        turns=tuple(reader.turns),
        tools=len(tools),
        schema=_asks_schema(document),
        images=len(reader.image_parts),
        image_parts=tuple(reader.image_parts),
        reasoning=bool(document.get("reasoning") or document.get("thinking")),
        output_tokens_max=_output_tokens_max(document),
        token_ids=token_ids,
        rendered_bytes=reader.rendered_bytes + _written_bytes(document, tools),
        answers=_choices(document) * prompts,
    )


def _choices(document: Json) -> int:
    """The answers to each prompt; `gateway/values.py` rejects a number that is out of bounds."""
    n = document.get("n")
    return n if type(n) is int and n > 0 else 1


def _written_bytes(document: Json, tools: list[Any]) -> int:
    """The tools and documents of a body as its template writes them."""
    written = [value for value in (tools, document.get("documents")) if value]
    try:
        return sum(len(orjson.dumps(value)) for value in written)
    except orjson.JSONEncodeError:
        raise MalformedBody("it is nested too deeply") from None


def _asks_schema(document: Json) -> bool:
    if document.get("structured_outputs") is not None:
        return True
    found = [document.get("response_format")]
    for key in ("text", "output_config"):
        value = document.get(key)
        found.append(value.get("format") if isinstance(value, dict) else None)
    return any(_format_type(value) in SCHEMA_FORMATS for value in found)


def _format_type(value: object) -> str | None:
    kind = value.get("type") if isinstance(value, dict) else None
    return kind if isinstance(kind, str) else None


def _output_tokens_max(document: Json) -> int | None:
    for key in OUTPUT_LIMITS:
        value = document.get(key)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    return None


def check_length(values: list[Any], found_max: int, param: str) -> None:
    """Raise TooMany if a list is longer than the bound."""
    if len(values) > found_max:
        raise TooMany(param, "items", found_max)


def read_text(document: Json, param: str) -> str | None:
    """A field that is a string or absent."""
    value = document.get(param)
    if value is None or isinstance(value, str):
        return value
    raise InvalidField(param, "a string")


def read_list(document: Json, param: str, *, required: bool) -> list[Any]:
    """A field that is a list; a required list must not be empty."""
    value = document.get(param)
    if value is None and not required:
        return []
    if not isinstance(value, list):
        raise InvalidField(param, "a list")
    if required and not value:
        raise InvalidField(param, "at least one item")
    return value
