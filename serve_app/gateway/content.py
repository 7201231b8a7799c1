"""The content of messages: text, media, tool calls and tool results, read once and bounded."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import orjson

from serve_app.config.bodies import BodiesConfig
from serve_app.core.call import Turn
from serve_app.core.errors import InvalidField, MalformedBody, RefusedField, TooMany
from serve_app.core.images import ImagePart
from serve_app.gateway.image_parts import read_image_url, read_source, refuse_other_media

Json = dict[str, Any]

URL_PART_TYPES = frozenset({"image_url", "input_image"})
IMAGE_TENSORS = "image_embeds"
TENSOR_KEYS = (IMAGE_TENSORS, "prompt_embeds")
TENSOR_TYPES = frozenset(TENSOR_KEYS)
TEXT_KEYS = ("text", "content", "thinking", "refusal")

ARGUMENTS_DEPTH_MAX = 254
"""The deepest nesting that orjson writes. vLLM parses the text of a tool call's arguments with
Python's `json`, which fails at about 1,000 levels, and vLLM reports that failure as its own error.
"""

BRACKET = re.compile(r'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', re.DOTALL)


class ContentReader:
    """Reads the messages of one body into turns, and counts their parts.

    `rendered_bytes` is the size of the JSON that the template writes into the prompt beside the
    turns: the arguments of tool calls.
    """

    __slots__ = ("_config", "_parts", "_tool_calls", "image_parts", "rendered_bytes", "turns")

    def __init__(self, config: BodiesConfig) -> None:
        self._config = config
        self._parts = self._tool_calls = 0
        self.image_parts: list[ImagePart] = []
        self.rendered_bytes = 0
        self.turns: list[Turn] = []

    def read_text(self, role: str, content: object, param: str) -> None:
        """Read one turn from content that holds no tool results."""
        self.turns.append(Turn(role, self._join(content, param)))

    def read_message(self, message: object, param: str) -> None:
        """Read a message of a chat or of Anthropic's Messages."""
        if not isinstance(message, dict):
            raise InvalidField(param, "an object with 'role' and 'content'")
        role = message.get("role")
        if not isinstance(role, str):
            raise InvalidField(f"{param}.role", "a string")
        content = message.get("content")
        if isinstance(content, list) and any(map(_is_tool_result, content)):
            self._read_results(role, content, f"{param}.content")
        else:
            self.read_text(role, content, f"{param}.content")
        if message.get("tool_calls") is not None:
            self._count_calls(message["tool_calls"], f"{param}.tool_calls")
        if isinstance(reasoning := message.get("reasoning"), str):
            self.rendered_bytes += len(reasoning)
        if role == "developer":  # vLLM passes tools on to the template from this role only.
            self.rendered_bytes += _json_bytes(message.get("tools"))

    def read_item(self, item: object, param: str) -> None:
        """Read an item of a Responses input."""
        if not isinstance(item, dict):
            raise InvalidField(param, "an object")
        if item.get("output") is not None:
            self.read_text("tool", item["output"], f"{param}.output")
        if item.get("content") is not None:
            role = item.get("role")
            known = role if isinstance(role, str) else "user"
            known = "assistant" if item.get("type") == "reasoning" else known
            _check_answer(item, param)
            self.read_text(known, item["content"], f"{param}.content")
        elif item.get("output") is None:
            self._read_call(item, param)

    def _read_call(self, item: Json, param: str) -> None:
        """Read a tool call by the model, its reasoning, or a reference: items without a user's
        question."""
        _check_arguments(item.get("arguments"), param)
        for key in ("arguments", "input", "name"):
            value = item.get(key)
            if isinstance(value, str):
                self._count_call(len(value), param)
        self.turns.append(Turn("assistant", ""))

    def _read_results(self, role: str, content: list[Any], param: str) -> None:
        """Read tool results, which Anthropic puts into a user's message, as one turn each."""
        rest: list[Any] = []
        for index, part in enumerate(content):
            if _is_tool_result(part):
                self._count_part(param)
                self._check_media(part, "tool_result", param)
                self.read_text("tool", part.get("content"), f"{param}[{index}].content")
            else:
                rest.append(part)
        if rest:
            self.read_text(role, rest, param)

    def _join(self, content: object, param: str) -> str:
        if content is None:
            return ""
        if isinstance(content, str):
            return content
        if isinstance(content, dict):
            content = [content]
        if not isinstance(content, list):
            raise InvalidField(param, "a string or a list of parts")
        return "\n".join([text for part in content for text in self._read_part(part, param)])

    def _read_part(self, part: object, param: str) -> Iterator[str]:
        self._count_part(param)
        if isinstance(part, str):
            yield part
            return
        if not isinstance(part, dict):
            raise InvalidField(param, "parts that are objects")
        kind = part.get("type")
        if kind is not None and not isinstance(kind, str):
            raise InvalidField(f"{param}.type", "a string")
        if kind == "text" and len(part) == 2:  # nearly all parts
            yield from _texts(part)
            return
        self._check_media(part, kind, param)
        if kind == "tool_use":
            self._count_call(_json_bytes(part.get("input")), param)
        yield from _texts(part)

    def _check_media(self, part: Json, kind: str | None, param: str) -> None:
        refuse_other_media(part, kind, param)
        if part.get("uuid") is not None:
            raise RefusedField(f"{param}.uuid", "it names an engine's cached media, of any client")
        if kind == "image_pil" or "image_pil" in part:
            raise RefusedField(f"{param}.image_pil", "it cannot be sent as JSON")
        if kind in TENSOR_TYPES or any(key in part for key in TENSOR_KEYS):
            self._read_tensors(part, kind, param)
        for image in self._read_images(part, kind, param):
            self._add_image(image)

    def _read_tensors(self, part: Json, kind: str | None, param: str) -> None:
        if "prompt_embeds" not in self._config.allowed_fields:
            raise RefusedField(f"{param}.{kind or 'embeds'}", "the engine would unpickle it")
        if kind == IMAGE_TENSORS or IMAGE_TENSORS in part:
            self._add_image(ImagePart(f"{param}.{IMAGE_TENSORS}"))

    @staticmethod
    def _read_images(part: Json, kind: str | None, param: str) -> Iterator[ImagePart]:
        if part.get("image_url") is not None or kind in URL_PART_TYPES:
            yield read_image_url(part.get("image_url"), f"{param}.image_url")
        if part.get("source") is not None or kind == "image":
            yield read_source(part.get("source"), f"{param}.source")

    def _add_image(self, image: ImagePart) -> None:
        self.image_parts.append(image)
        if len(self.image_parts) > self._config.counts.media_max:
            raise TooMany(image.param, "images", self._config.counts.media_max)

    def _count_part(self, param: str) -> None:
        self._parts += 1
        if self._parts > self._config.counts.parts_max:
            raise TooMany(param, "parts in all messages", self._config.counts.parts_max)

    def _count_call(self, size: int, param: str) -> None:
        self._tool_calls += 1
        if self._tool_calls > self._config.counts.tool_calls_max:
            raise TooMany(param, "tool calls", self._config.counts.tool_calls_max)
        self.rendered_bytes += size

    def _count_calls(self, calls: object, param: str) -> None:
        if not isinstance(calls, list):
            raise InvalidField(param, "a list")
        for call in calls:
            if not isinstance(call, dict):
                raise InvalidField(param, "a list of objects")
            function = call.get("function")
            if isinstance(function, dict):
                _check_arguments(function.get("arguments"), param)
            self._count_call(_json_bytes(function), param)


def _check_answer(item: Json, param: str) -> None:
    """Reject an earlier answer by the model whose first part has no text: vLLM fails at it."""
    content = item["content"]
    if item.get("type") != "message" or item.get("role") != "assistant":
        return
    if not isinstance(content, list):
        return
    first = content[0] if content else None
    if not isinstance(first, str) and not (
        isinstance(first, dict) and isinstance(first.get("text"), str)
    ):
        raise InvalidField(f"{param}.content", "a part with text first")


def _check_arguments(arguments: object, param: str) -> None:
    """Check only the nesting: vLLM takes text that is not JSON for an empty object."""
    if not isinstance(arguments, str):
        return
    if arguments.count("[") + arguments.count("{") <= ARGUMENTS_DEPTH_MAX:
        return
    depth = 0
    for bracket in BRACKET.findall(arguments):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(bracket, 0)
        if depth > ARGUMENTS_DEPTH_MAX:
            raise InvalidField(f"{param}.arguments", "JSON that is nested less deeply")


def _is_tool_result(part: object) -> bool:
    return isinstance(part, dict) and part.get("type") == "tool_result"


def _texts(part: Json) -> Iterator[str]:
    for key in TEXT_KEYS:
        value = part.get(key)
        if isinstance(value, str):
            yield value


def _json_bytes(value: object) -> int:
    """The length of a value in the form in which the template writes it.

    Raises:
        MalformedBody: the value is nested too deeply to be written.
    """
    if value is None:
        return 0
    try:
        return len(orjson.dumps(value))
    except orjson.JSONEncodeError:
        raise MalformedBody("it is nested too deeply") from None
