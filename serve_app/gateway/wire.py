"""Turns the wire formats into a `Call`.

`fields.py` says which fields the engine may see, `values.py` and `grammars.py` bound their values,
`prompts.py` and `content.py` read the prompt. The engine checks the types of everything else, and
its 4xx answers pass through, so no OpenAI or Anthropic schema is copied by hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from types import MappingProxyType
from typing import Any

import orjson

from serve_app.config.bodies import BodiesConfig
from serve_app.core.call import (
    AUTO,
    NO_LIMITS,
    CacheUse,
    Call,
    Endpoint,
    Objective,
    Policy,
    TierLimits,
)
from serve_app.core.errors import InvalidField, MalformedBody, TooMany
from serve_app.core.headers import OBJECTIVE_HEADER, POLICY_HEADER
from serve_app.core.prefix import PrefixKeys
from serve_app.gateway.fields import admit_fields
from serve_app.gateway.grammars import GRAMMAR_FIELDS, check_grammars
from serve_app.gateway.output_cap import OutputCap, choose_cap
from serve_app.gateway.prefix_text import read_prefix_keys
from serve_app.gateway.prompts import detect_endpoint, read_prompt, read_text
from serve_app.gateway.stored_responses import check_nothing_stored
from serve_app.gateway.values import admit_tools, check_values

__all__ = ["DEFAULT_BODIES", "JsonPayload", "detect_endpoint", "parse_call", "parse_json"]


Json = dict[str, Any]

NO_LABEL_KEYS = ("use_beam_search", "background", "previous_response_id")
STREAM_KEYS = frozenset({"stream", "stream_options"})
DEFAULT_BODIES = BodiesConfig()

BUDGET_KEY = "thinking_token_budget"
PRIORITY_KEY = "priority"
UNLIMITED = -1
"""vLLM's value for no budget."""


class JsonPayload:
    """A JSON body that can be addressed to another model."""

    __slots__ = ("_cap", "_document", "_prefix_keys", "_priority", "_thinking_tokens_max")

    def __init__(
        self,
        document: Json,
        thinking_tokens_max: Mapping[str, int] = MappingProxyType({}),
        cap: OutputCap | None = None,
        priority: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """`thinking_tokens_max` by tier, where the endpoint knows such a budget. `priority` by
        tier, where the engine schedules by priority."""
        self._document = document
        self._thinking_tokens_max = thinking_tokens_max
        self._cap = cap
        self._priority = priority
        self._prefix_keys: PrefixKeys | None = None

    @property
    def deterministic(self) -> bool:
        """Whether the body sets temperature 0 or a seed."""
        temperature = self._document.get("temperature")
        return temperature == 0 or self._document.get("seed") is not None

    def for_model(self, model_id: str, tier: str) -> bytes:
        """The JSON body, addressed to the model of a tier, within that tier's thinking budget.

        Raises:
            MalformedBody: the body is nested too deeply to be written again.
        """
        document = {**self._document, "model": model_id}
        if tier in self._thinking_tokens_max:
            document[BUDGET_KEY] = self._budget(self._thinking_tokens_max[tier])
        if self._cap is not None:
            document[self._cap.param] = self._cap.for_tier(tier)
        if tier in self._priority:
            document[PRIORITY_KEY] = self._priority[tier]
        try:
            return orjson.dumps(document)
        except TypeError:
            raise MalformedBody("it is nested too deeply") from None

    def prefix_keys(self) -> PrefixKeys:
        """The keys of the prompt's beginnings, made when they are first asked for."""
        if self._prefix_keys is None:
            self._prefix_keys = read_prefix_keys(self._document)
        return self._prefix_keys

    def _budget(self, most: int) -> object:
        """The budget that the client asks for, within bounds; vLLM rejects other values."""
        asked = self._document.get(BUDGET_KEY)
        if asked is None or asked == UNLIMITED:
            return most
        return min(asked, most) if type(asked) is int else asked

    def for_label(self, model_id: str) -> bytes | None:
        """The body that asks another model the same question, for an answer in one piece.

        None where the call asks for several answers, or the conversation so far is not in the body.
        """
        document, prompt = self._document, self._document.get("prompt")
        if (
            document.get("n") not in (None, 1)
            or any(document.get(key) for key in NO_LABEL_KEYS)
            or (isinstance(prompt, list) and len(prompt) != 1)
        ):
            return None
        kept = {key: value for key, value in document.items() if key not in STREAM_KEYS}
        # No endpoint of this service could return a stored answer.
        stored: Json = {"store": False} if "input" in document else {}
        if self._cap is not None:
            stored[self._cap.param] = self._cap.tokens_max
        return orjson.dumps({**kept, **stored, "model": model_id, "stream": False})

    def ranked(self, priority: int, tiers: Set[str]) -> JsonPayload:
        """The body that tells the engines of these tiers the priority of the call."""
        ranks = dict.fromkeys(tiers, priority)
        return JsonPayload(self._document, self._thinking_tokens_max, self._cap, ranks)

    def capped(self, call: Call, tokens_max: int, contexts: Mapping[str, int]) -> JsonPayload:
        """The body with a limit of the answer's tokens, the client's own limit if it sets one.

        Raises:
            InvalidField: the body asks for more.
        """
        cap = choose_cap(call, self._document, tokens_max, contexts)
        return JsonPayload(self._document, self._thinking_tokens_max, cap)


def parse_json(body: bytes) -> Json:
    """The body as a JSON object.

    Raises:
        MalformedBody: the body is not a JSON object.
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
    objective: str | None = None,
    bodies: BodiesConfig = DEFAULT_BODIES,
    cache_use: CacheUse = CacheUse.DEFAULT,
) -> Call:
    """One API request from its body; `tier`, `limits`, `policy` and `objective` come
    from its headers.

    Raises:
        BadRequest: the body cannot be read as a call of this endpoint, or holds something that
            `bodies` does not allow; names the field.
    """
    sent = parse_json(body)
    if endpoint is Endpoint.RESPONSES:
        check_nothing_stored(sent)
    prompt = read_prompt(endpoint, sent, bodies)
    document = admit_tools(endpoint, admit_fields(endpoint, sent, bodies), bodies)
    check_values(endpoint, document, bodies)
    if prompt.answers > bodies.counts.answers_max:
        raise TooMany("n", "answers to all prompts together", bodies.counts.answers_max)
    if document.keys() & GRAMMAR_FIELDS:
        check_grammars(document, bodies)
    stream = _flag(document, "stream") if endpoint.generates else False
    adds_usage = stream and _lacks_usage(endpoint, document)
    if adds_usage:
        options = {**(document.get("stream_options") or {}), "include_usage": True}
        document = {**document, "stream_options": options}
    budgets = bodies.thinking_tokens_max if endpoint is Endpoint.CHAT else {}
    return Call(
        request_id=request_id,
        endpoint=endpoint,
        model=read_text(document, "model") or AUTO,
        payload=JsonPayload(document, budgets),
        prompt=prompt,
        stream=stream,
        adds_usage=adds_usage,
        tier=tier,
        limits=limits,
        session=session,
        policy=None if policy is None else _policy(policy),
        objective=None if objective is None else _objective(objective),
        # A beam's tokens are not the answer's tokens; a background response has no stream to hold.
        draftable=not (document.get("use_beam_search") or document.get("background")),
        cache_use=cache_use,
    )


def _policy(value: str) -> Policy:
    try:
        return Policy(value)
    except ValueError:
        raise InvalidField(POLICY_HEADER.decode(), f"one of {', '.join(Policy)}") from None


def _objective(value: str) -> Objective:
    try:
        return Objective(value)
    except ValueError:
        expected = f"one of {', '.join(Objective)}"
        raise InvalidField(OBJECTIVE_HEADER.decode(), expected) from None


def _lacks_usage(endpoint: Endpoint, document: Json) -> bool:
    if endpoint not in (Endpoint.CHAT, Endpoint.COMPLETIONS):
        return False
    options = document.get("stream_options")
    if options is None:
        return True
    if not isinstance(options, dict):
        raise InvalidField("stream_options", "an object")
    return not options.get("include_usage")


def _flag(document: Json, param: str) -> bool:
    value = document.get(param)
    if value is None:
        return False
    if isinstance(value, bool):
        return value
    raise InvalidField(param, "a boolean")
