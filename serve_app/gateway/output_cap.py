"""The limit of an answer's tokens that a body has because its caller may not ask for more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from serve_app.core.call import Call, Endpoint
from serve_app.core.errors import InvalidField
from serve_app.core.tokens import estimate_tokens

FIELDS: Mapping[Endpoint, tuple[str, ...]] = MappingProxyType(
    {
        Endpoint.CHAT: ("max_completion_tokens", "max_tokens"),
        Endpoint.COMPLETIONS: ("max_tokens",),
        Endpoint.RESPONSES: ("max_output_tokens",),
        Endpoint.MESSAGES: ("max_tokens",),
    }
)
"""The fields with such a limit; the engine obeys the first that is set."""

ROOM_SHARE = 16
"""The part of a context that a cap leaves at least. The estimate of a prompt may be too high, and
an answer that ends after one token would be worse than a refusal by the engine."""


@dataclass(frozen=True, slots=True)
class OutputCap:
    """A limit to write into the field `param`: `tokens_max`, or less for the tiers of `rooms`."""

    param: str
    tokens_max: int
    rooms: Mapping[str, int]

    def for_tier(self, tier: str) -> int:
        """The limit for the engines of a tier."""
        return self.rooms.get(tier, self.tokens_max)


def choose_cap(
    call: Call, document: Mapping[str, Any], tokens_max: int, contexts: Mapping[str, int]
) -> OutputCap | None:
    """The limit to write into a body, None if the body has a limit already.

    Raises:
        InvalidField: the body asks for more.
    """
    params = FIELDS[call.endpoint]
    given = [param for param in params if document.get(param) is not None]
    for param in given:
        _check(param, document[param], tokens_max)
    if given:
        return None
    prompt_tokens = estimate_tokens(call.prompt)
    rooms = {tier: _room(length, prompt_tokens) for tier, length in contexts.items()}
    narrow = {tier: room for tier, room in rooms.items() if room < tokens_max}
    return OutputCap(params[0], tokens_max, narrow)


def _check(param: str, value: object, tokens_max: int) -> None:
    """Accept only whole numbers, because vLLM also reads "9000" and 9000.0 as numbers."""
    if type(value) is not int or not 0 <= value <= tokens_max:
        raise InvalidField(param, f"at most {tokens_max}, the limit of tokens that you may ask for")


def _room(context: int, prompt_tokens: int) -> int:
    """What a prompt leaves of a context: vLLM refuses a call whose two parts do not fit together,
    but would cut the answer of a call without a limit."""
    return max(context - prompt_tokens, context // ROOM_SHARE, 1)
