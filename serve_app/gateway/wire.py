"""From wire formats to a `Call`: the only place that knows what the API bodies look like.

It checks the fields it reads and no others; the engine checks the rest against its own schema, and
its 4xx answers pass through. So there is no hand copy of OpenAI's or Anthropic's schema here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from serve_app.core.call import (
    NO_LIMITS,
    Call,
    Endpoint,
    Payload,
    Policy,
    Prompt,
    TierLimits,
    Turn,
)
from serve_app.core.errors import InvalidField, MalformedBody

AUTO = "auto"
POLICY_HEADER = "x-route-policy"

Json = dict[str, Any]

IMAGE_PART_TYPES = frozenset({"image_url", "input_image", "image"})
NO_LABEL_KEYS = ("use_beam_search", "background", "previous_response_id", "conversation")
STREAM_KEYS = frozenset({"stream", "stream_options"})
SCHEMA_FORMATS = frozenset({"json_schema", "json_object", "structural_tag"})


class JsonPayload:
    """A JSON body that can be addressed to another model."""

    __slots__ = ("_document",)

    def __init__(self, document: Json) -> None:
        self._document = document

    def for_model(self, model_id: str) -> bytes:
        """The JSON body, addressed to the model that will answer.

        Raises:
            MalformedBody: it is nested too deeply to be written again.
        """
        try:
            return orjson.dumps({**self._document, "model": model_id})
        except TypeError:
            raise MalformedBody("it is nested too deeply") from None

    def for_label(self, model_id: str) -> bytes | None:
        """The body that asks another model for the same in one piece.

        None where several answers are asked for, or what was said before is not in the body.
        """
        document, prompt = self._document, self._document.get("prompt")
        if (
            any(document.get(key) not in (None, 1) for key in ("n", "best_of"))
            or any(document.get(key) for key in NO_LABEL_KEYS)
            or (isinstance(prompt, list) and len(prompt) != 1)
        ):
            return None
        kept = {key: value for key, value in document.items() if key not in STREAM_KEYS}
        # A stored answer would be one that nobody knows of.
        stored = {"store": False} if "input" in document else {}
        return orjson.dumps({**kept, **stored, "model": model_id, "stream": False})


def parse_json(body: bytes) -> Json:
    """The body as a JSON object.

    Raises:
        MalformedBody: it is not one.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedBody(f"not valid JSON at line {error.lineno} column {error.colno}") from None
    if not isinstance(document, dict):
        raise MalformedBody("a JSON object is expected")
    return document


def parse_call(
    endpoint: Endpoint,
    body: bytes,
    *,
    request_id: str,
    tier: str | None,
    limits: TierLimits = NO_LIMITS,
    session: str | None = None,
    policy: str | None = None,
) -> Call:
    """One API request from its body; `tier`, `limits` and `policy` are what its headers say.

    Raises:
        BadRequest: the body cannot be read as a call of this endpoint; names the field.
    """
    document = parse_json(body)
    stream = _flag(document, "stream") if endpoint.generates else False
    payload: Payload = JsonPayload(document)
    adds_usage = stream and _lacks_usage(endpoint, document)
    if adds_usage:
        options = {**(document.get("stream_options") or {}), "include_usage": True}
        payload = JsonPayload({**document, "stream_options": options})
    return Call(
        request_id=request_id,
        endpoint=endpoint,
        model=_text(document, "model") or AUTO,
        payload=payload,
        prompt=PARSERS[endpoint](document),
        stream=stream,
        adds_usage=adds_usage,
        tier=tier,
        limits=limits,
        session=session,
        policy=None if policy is None else _policy(policy),
        # A beam's tokens are nobody's answer, and one in the background has no stream to hold back.
        draftable=not (document.get("use_beam_search") or document.get("background")),
    )


def detect_endpoint(document: Json) -> Endpoint:
    """Which generation endpoint a body was written for.

    Raises:
        MalformedBody: it holds none of their prompts.
    """
    if "messages" in document:
        anthropic = "system" in document or "anthropic_version" in document
        return Endpoint.MESSAGES if anthropic else Endpoint.CHAT
    if "input" in document:
        return Endpoint.RESPONSES
    if "prompt" in document:
        return Endpoint.COMPLETIONS
    raise MalformedBody("one of 'messages', 'input' and 'prompt' is expected")


def _policy(value: str) -> Policy:
    try:
        return Policy(value)
    except ValueError:
        raise InvalidField(POLICY_HEADER, f"one of {', '.join(Policy)}") from None


def _parse_messages(document: Json) -> Prompt:
    images = 0
    turns: list[Turn] = []
    if document.get("system") is not None:
        text, _ = _content(document["system"], "system")
        turns.append(Turn("system", text))
    for index, message in enumerate(_list(document, "messages", required=True)):
        param = f"messages[{index}]"
        if not isinstance(message, dict):
            raise InvalidField(param, "an object with 'role' and 'content'")
        role = message.get("role")
        if not isinstance(role, str):
            raise InvalidField(f"{param}.role", "a string")
        text, message_images = _content(message.get("content"), f"{param}.content")
        images += message_images
        turns.append(Turn(role, text))
    return _prompt(document, turns, images)


def _parse_prompt(document: Json) -> Prompt:
    prompt = document.get("prompt")
    if isinstance(prompt, str):
        turns = [Turn("user", prompt)]
    elif isinstance(prompt, list):
        turns = [Turn("user", part) for part in prompt if isinstance(part, str)]
    else:
        raise InvalidField("prompt", "a string or a list")
    return _prompt(document, turns, 0)


def _parse_responses(document: Json) -> Prompt:
    turns: list[Turn] = []
    images = 0
    instructions = _text(document, "instructions")
    if instructions:
        turns.append(Turn("system", instructions))
    items = document.get("input")
    if isinstance(items, str):
        return _prompt(document, [*turns, Turn("user", items)], 0)
    if not isinstance(items, list):
        raise InvalidField("input", "a string or a list of items")
    for index, item in enumerate(items):
        if not isinstance(item, dict):
            raise InvalidField(f"input[{index}]", "an object")
        if "content" not in item:
            output = item.get("output")
            turns.append(Turn("tool", output if isinstance(output, str) else ""))
            continue
        text, item_images = _content(item["content"], f"input[{index}].content")
        images += item_images
        role = item.get("role")
        turns.append(Turn(role if isinstance(role, str) else "user", text))
    return _prompt(document, turns, images)


def _parse_tokenize(document: Json) -> Prompt:
    return _parse_messages(document) if "messages" in document else _parse_prompt(document)


def _parse_nothing(document: Json) -> Prompt:
    return Prompt()


PARSERS = {
    Endpoint.CHAT: _parse_messages,
    Endpoint.MESSAGES: _parse_messages,
    Endpoint.COUNT_TOKENS: _parse_messages,
    Endpoint.COMPLETIONS: _parse_prompt,
    Endpoint.RESPONSES: _parse_responses,
    Endpoint.INPUT_TOKENS: _parse_responses,
    Endpoint.TOKENIZE: _parse_tokenize,
    Endpoint.DETOKENIZE: _parse_nothing,
    Endpoint.EMBEDDINGS: _parse_nothing,
}


def _prompt(document: Json, turns: list[Turn], images: int) -> Prompt:
    return Prompt(
        turns=tuple(turns),
        tools=len(_list(document, "tools", required=False)),
        schema=_asks_schema(document),
        images=images,
        reasoning=bool(document.get("reasoning") or document.get("thinking")),
        output_tokens_max=_output_tokens_max(document),
    )


def _content(content: object, param: str) -> tuple[str, int]:
    """The text of a message's content, and how many images it holds."""
    if content is None:
        return "", 0
    if isinstance(content, str):
        return content, 0
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list):
        raise InvalidField(param, "a string or a list of parts")
    texts: list[str] = []
    images = 0
    for part in content:
        if isinstance(part, str):
            texts.append(part)
        elif not isinstance(part, dict):
            raise InvalidField(param, "parts that are objects")
        elif part.get("type") in IMAGE_PART_TYPES:
            images += 1
        else:
            texts.extend(_part_texts(part))
    return "\n".join(texts), images


def _part_texts(part: Json) -> Iterator[str]:
    for key in ("text", "content"):
        value = part.get(key)
        if isinstance(value, str):
            yield value


def _asks_schema(document: Json) -> bool:
    text = document.get("text")
    formats = [document.get("response_format")]
    if isinstance(text, dict):
        formats.append(text.get("format"))
    return document.get("structured_outputs") is not None or any(
        isinstance(item, dict) and item.get("type") in SCHEMA_FORMATS for item in formats
    )


def _output_tokens_max(document: Json) -> int | None:
    for key in ("max_completion_tokens", "max_output_tokens", "max_tokens"):
        value = document.get(key)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    return None


def _lacks_usage(endpoint: Endpoint, document: Json) -> bool:
    if endpoint not in (Endpoint.CHAT, Endpoint.COMPLETIONS):
        return False
    options = document.get("stream_options")
    if options is None:
        return True
    if not isinstance(options, dict):
        raise InvalidField("stream_options", "an object")
    return not options.get("include_usage")


def _text(document: Json, param: str) -> str | None:
    value = document.get(param)
    if value is None or isinstance(value, str):
        return value
    raise InvalidField(param, "a string")


def _flag(document: Json, param: str) -> bool:
    value = document.get(param)
    if value is None:
        return False
    if isinstance(value, bool):
        return value
    raise InvalidField(param, "a boolean")


def _list(document: Json, param: str, *, required: bool) -> list[Any]:
    value = document.get(param)
    if value is None and not required:
        return []
    if not isinstance(value, list):
        raise InvalidField(param, "a list")
    if required and not value:
        raise InvalidField(param, "at least one item")
    return value
