"""Limits, calls and records for the tests of limits."""

from __future__ import annotations

from serve_app.core.call import Call, Decision, Endpoint, Prompt, Reason, Record, Route, Turn
from serve_app.core.caller import Caller
from serve_app.gateway.wire import JsonPayload
from serve_app.limits.limit import Charge, Limit, LimitAsk, Measure
from serve_app.limits.windows import LimitWindow

ACME = Caller("acme", key_id="k1", user="alice")
FAST = Decision("fast", "demo-fast", Reason.SIMPLE)
STRONG = Decision("strong", "demo-strong", Reason.COMPLEX)


def limit_of(
    amount: int,
    window: LimitWindow = LimitWindow.MINUTE,
    measure: Measure = Measure.TOKENS,
    name: str = "acme",
) -> Limit:
    key = f"{{{name}}}:tenant:{name}::{measure.value}:{window.value}"
    return Limit(key, measure, window, amount, f"{amount} {measure.value}")


def places_of(amount: int, name: str = "acme") -> Limit:
    return limit_of(amount, LimitWindow.NOW, Measure.CALLS, name)


def charge_of(ask: LimitAsk, used: int) -> Charge:
    return Charge(ask.limit, ask.amount, used)


def call_of(
    text: str = "Hello",
    *,
    endpoint: Endpoint = Endpoint.CHAT,
    output_tokens_max: int | None = 10,
    answers: int = 1,
) -> Call:
    turns = (Turn("user", text),)
    prompt = Prompt(turns, output_tokens_max=output_tokens_max, answers=answers)
    return Call("r1", endpoint, "auto", JsonPayload({"messages": []}), prompt)


def record_of(
    prompt_tokens: int | None = None,
    completion_tokens: int | None = None,
    *,
    endpoint: Endpoint = Endpoint.CHAT,
    decision: Decision | None = FAST,
    caller: Caller = ACME,
) -> Record:
    record = Record("r1", endpoint, stream=False, decision=decision, caller=caller, status=200)
    record.usage.prompt_tokens = prompt_tokens
    record.usage.completion_tokens = completion_tokens
    return record


ROUTE = Route(FAST)
CASCADE = Route(STRONG, draft=FAST)
