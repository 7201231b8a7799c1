"""What every answer is held to beside the document, and how the engines are kept from work.

schemathesis imports this file (`hooks` in schemathesis.toml).
"""

from __future__ import annotations

from typing import Any

import orjson
import schemathesis

from serve_app.gateway.render import ANTHROPIC_TYPES

TIERS = ["auto", "fast", "strong"]
MODELS = ["demo-fast", "demo-strong"]
TIER_HEADERS = {
    "x-route-tier": TIERS,
    "x-route-never-below": ["fast", "strong"],
    "x-route-never-above": ["strong", "fast"],
}
OUTPUT_TOKENS_MAX = 4
OUTPUT_LIMITS = {
    "/v1/chat/completions": "max_completion_tokens",
    "/v1/completions": "max_tokens",
    "/v1/responses": "max_output_tokens",
    "/v1/messages": "max_tokens",
}
DOCUMENTED_5XX = {503: {"overloaded", "model_unavailable"}, 504: {"deadline_exceeded"}}
OPENAI_TYPES = {
    "invalid_request_error",
    "overloaded_error",
    "rate_limit_error",
    "server_error",
    "timeout_error",
}


@schemathesis.hook
def before_load_schema(context: schemathesis.HookContext, raw_schema: dict[str, Any]) -> None:
    """Name the tiers of the service under test, or nearly every call would be for none of them."""
    components = raw_schema["components"]
    for header, values in TIER_HEADERS.items():
        components["parameters"][header]["schema"] = {"enum": values}
    for name, schema in components["schemas"].items():
        if name.endswith("Request") and "model" in schema.get("properties", {}):
            schema["properties"]["model"] = {"enum": [None, *TIERS, *MODELS]}


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: schemathesis.Case, kwargs: Any) -> None:
    """Ask for few tokens, unless the limit itself is what the case is about."""
    limit = OUTPUT_LIMITS.get(case.operation.path)
    if limit is None or not isinstance(case.body, dict):
        return
    for name in {limit, "max_tokens"} & (case.body.keys() | {limit}):
        value = case.body.get(name)
        if value is None or (isinstance(value, int) and value > OUTPUT_TOKENS_MAX):
            case.body[name] = OUTPUT_TOKENS_MAX


@schemathesis.check
def errors_in_dialect(
    context: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case
) -> None:
    """Every error is JSON in the dialect of its endpoint, and no fault of the service."""
    if response.status_code < 400 or case.operation.path == "/ready":
        return
    media_type = response.headers.get("content-type", [""])[0]
    assert media_type == "application/json", f"an error of type {media_type!r}"
    document = orjson.loads(response.content)
    if case.operation.path.startswith("/v1/messages"):
        error = _anthropic_error(document)
    else:
        error = _openai_error(document)
    if response.status_code >= 500:
        documented = DOCUMENTED_5XX.get(response.status_code, set())
        assert error.get("code") in documented, f"a fault of the service: {error}"


def _anthropic_error(document: Any) -> Any:
    error = document.get("error")
    assert document.keys() == {"type", "error", "request_id"}, f"not Anthropic's form: {document}"
    assert document["type"] == "error", f"not Anthropic's form: {document}"
    assert error["type"] in {*ANTHROPIC_TYPES.values(), "api_error"}, f"no such type: {error}"
    assert isinstance(error["message"], str), f"no message: {error}"
    return error


def _openai_error(document: Any) -> Any:
    error = document.get("error")
    assert document.keys() == {"error"}, f"not OpenAI's form: {document}"
    assert error.keys() == {"message", "type", "param", "code"}, f"not OpenAI's form: {error}"
    assert error["type"] in OPENAI_TYPES, f"no such type: {error}"
    assert isinstance(error["message"], str), f"no message: {error}"
    for key in ("param", "code"):
        assert error[key] is None or isinstance(error[key], str), f"{key} is no string: {error}"
    return error
