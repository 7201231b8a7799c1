"""Writes serve_app/gateway/openapi.json: `make openapi`, or with --check says if it is stale.

The words and our own pages are in openapi.yaml beside this file; the bodies come from vLLM's models
and from our own classes. The Router serves the file, because it must not import vLLM.
"""

import json
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pins
import yaml
from engine_schemas import REF_PREFIX, Json, build_schemas
from pydantic import TypeAdapter
from pydantic.json_schema import JsonSchemaMode

from serve_app.core.call import Decision, Endpoint, Objective, Policy, Reason, TierState
from serve_app.core.load import TierLoad
from serve_app.feedback.lines import FeedbackReport
from serve_app.gateway.feedback import COMMENT_CHARS_MAX
from serve_app.gateway.fields import FIELDS, FieldRule, Ruling
from serve_app.gateway.render import ANTHROPIC_TYPES
from serve_app.gateway.request_headers import REQUEST_ID, SESSION_ID
from serve_app.gateway.stored_responses import FIELDS as STATEFUL_FIELDS
from serve_app.routing.control import ControlState
from serve_app.routing.worth import CostWeights

DOCUMENT = pins.ROOT / "serve_app" / "gateway" / "openapi.json"
SKELETON = Path(__file__).with_suffix(".yaml")

CLASSES = (
    ControlState,
    Decision,
    Endpoint,
    CostWeights,
    FeedbackReport,
    Objective,
    Policy,
    Reason,
    TierLoad,
    TierState,
)

OPERATIONS: Mapping[Endpoint, tuple[str, str, str]] = {
    Endpoint.CHAT: ("create_chat_completion", "OpenAI", "Chat."),
    Endpoint.COMPLETIONS: ("create_completion", "OpenAI", "Text completion."),
    Endpoint.RESPONSES: ("create_response", "OpenAI", "Responses."),
    Endpoint.INPUT_TOKENS: ("count_input_tokens", "OpenAI", "The tokens of a response's input."),
    Endpoint.MESSAGES: ("create_message", "Anthropic", "Messages."),
    Endpoint.COUNT_TOKENS: ("count_tokens", "Anthropic", "The tokens of a message."),
    Endpoint.EMBEDDINGS: ("create_embedding", "OpenAI", "Embeddings, where a tier has them."),
    Endpoint.RERANK: ("rerank", "vLLM", "Documents by their relevance, where a tier scores."),
    Endpoint.SCORE: ("score", "vLLM", "The scores of pairs of texts, where a tier scores."),
    Endpoint.TOKENIZE: ("tokenize", "vLLM", "Text to token ids."),
    Endpoint.DETOKENIZE: ("detokenize", "vLLM", "Token ids to text."),
}

RESPONSES = (Endpoint.RESPONSES, Endpoint.INPUT_TOKENS)

INPUT_TOKENS = {"$ref": f"{REF_PREFIX}InputTokens"}
"""The one answer that is ours, not the engine's."""

NOTES = {"model": "`auto`, a tier's name or a model id. Without one the Router chooses."}

DECISION_HEADERS = ("x-route-tier", "x-route-model", "x-route-reason", "x-route-score")
DRAFT_HEADERS = ("x-route-escalated", "x-route-confidence", "x-route-draft-tokens")
LIMIT_HEADERS = tuple(
    f"x-ratelimit-{what}-{measure}"
    for measure in ("requests", "tokens")
    for what in ("limit", "remaining", "reset")
)
ANTHROPIC_LIMIT_HEADERS = tuple(
    f"anthropic-ratelimit-{measure}-{what}"
    for measure in ("requests", "tokens")
    for what in ("limit", "remaining", "reset")
)
REQUEST_HEADERS = (
    "x-request-id",
    "x-route-tier",
    "x-route-never-below",
    "x-route-never-above",
    "x-route-policy",
    "x-route-objective",
    "x-session-id",
    "x-deadline-ms",
    "x-feedback-consent",
)
ERRORS: Mapping[int, str] = {
    400: "Invalid",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    408: "TooSlow",
    413: "TooLarge",
    415: "NotJson",
    429: "TooMany",
    500: "ServerError",
    502: "Upstream",
    503: "Overloaded",
    504: "Timeout",
}


def build_document() -> Json:
    """The whole document."""
    document: Json = yaml.safe_load(SKELETON.read_text())
    document["info"]["version"] = pins.read_project(pins.ROOT)["version"]
    fields = {endpoint: taken_fields(endpoint) for endpoint in Endpoint}
    definitions, requests, answers = build_schemas(fields)
    calls = {
        endpoint.value: {
            "post": operation(endpoint, requests[endpoint], answers.get(endpoint, INPUT_TOKENS))
        }
        for endpoint in Endpoint
    }
    document["paths"] = {**calls, **document["paths"]}
    for path, example in document.pop("x-examples").items():
        body = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        body["example"] = example
    for path, links in document.pop("x-links").items():
        document["paths"][path]["post"]["responses"]["200"]["links"] = links
    components = document["components"]
    components["responses"] |= anthropic_errors(components["responses"])
    components["schemas"] = {**components["schemas"], **own_schemas(), **definitions}
    return document


def taken_fields(endpoint: Endpoint) -> Mapping[str, str]:
    """The fields of an endpoint's body that the engine sees, and what is said of them.

    Not those that an operator may allow beside them, because every service has the same document.
    """
    stateful = STATEFUL_FIELDS if endpoint in RESPONSES else {}
    return {
        name: NOTES.get(name) or note(rule)
        for name, rule in FIELDS[endpoint].items()
        if rule.ruling is Ruling.FORWARD and name not in stateful
    }


def note(rule: FieldRule) -> str:
    """What the table of fields says of one, as a sentence."""
    return f"{rule.why[0].upper()}{rule.why[1:]}." if rule.why else ""


def operation(endpoint: Endpoint, request: Json, answer: Json) -> Json:
    """The POST of one of the engine's endpoints."""
    name, tag, summary = OPERATIONS[endpoint]
    prefix = "Anthropic" if endpoint.anthropic else ""
    errors = {
        str(status): {"$ref": f"#/components/responses/{prefix}{response}"}
        for status, response in ERRORS.items()
    }
    return {
        "operationId": name,
        "tags": [tag],
        "summary": summary,
        "parameters": [{"$ref": f"#/components/parameters/{name}"} for name in REQUEST_HEADERS],
        "requestBody": {"required": True, "content": {"application/json": {"schema": request}}},
        "responses": {"200": success(endpoint, answer), **errors},
    }


def success(endpoint: Endpoint, answer: Json) -> Json:
    """The answer with its headers; endpoints that generate may stream."""
    limits = ANTHROPIC_LIMIT_HEADERS if endpoint.anthropic else LIMIT_HEADERS
    drafts = DRAFT_HEADERS if endpoint.generates else ()
    names = ("x-request-id", *DECISION_HEADERS, *drafts, *limits)
    content: Json = {"application/json": {"schema": answer}}
    if endpoint.generates:
        content["text/event-stream"] = {}
    headers = {name: {"$ref": f"#/components/headers/{name}"} for name in names}
    return {"description": "The engine's answer.", "headers": headers, "content": content}


def anthropic_errors(responses: Json) -> Json:
    """The same error answers with Anthropic's error object."""
    content = {"application/json": {"schema": {"$ref": f"{REF_PREFIX}AnthropicError"}}}
    return {f"Anthropic{name}": {**responses[name], "content": content} for name in ERRORS.values()}


def own_schemas() -> Json:
    """The schemas of our own classes, and of the values that our own patterns check."""
    inputs: list[tuple[str, JsonSchemaMode, TypeAdapter[Any]]] = [
        (kind.__name__, "serialization", TypeAdapter(kind)) for kind in CLASSES
    ]
    _, schema = TypeAdapter.json_schemas(inputs, ref_template=REF_PREFIX + "{model}")
    request_id = {"type": "string", "pattern": f"^{REQUEST_ID.pattern.decode()}$"}
    comment = {"type": ["string", "null"], "maxLength": COMMENT_CHARS_MAX}
    feedback = {"request_id": request_id, "right": {"type": "boolean"}, "comment": comment}
    return {
        **schema["$defs"],
        "SessionId": {"type": "string", "pattern": f"^{SESSION_ID.pattern.decode()}$"},
        "AnthropicErrorType": {"enum": sorted({*ANTHROPIC_TYPES.values(), "api_error"})},
        "FeedbackRequest": {
            "type": "object",
            "properties": feedback,
            "required": ["request_id", "right"],
            "additionalProperties": False,
        },
    }


def references(schema: Any) -> set[str]:
    """The targets of every `$ref`."""
    if isinstance(schema, list):
        return set().union(*map(references, schema))
    if not isinstance(schema, dict):
        return set()
    own = {schema["$ref"]} if "$ref" in schema else set()
    return own.union(*map(references, schema.values()))


def render(document: Json) -> str:
    return json.dumps(document, indent=1) + "\n"


def main(arguments: Collection[str]) -> None:
    text = render(build_document())
    if "--check" not in arguments:
        DOCUMENT.write_text(text)
    elif DOCUMENT.read_text() != text:
        sys.exit(f"{DOCUMENT.relative_to(pins.ROOT)} is stale: make openapi")


if __name__ == "__main__":
    main(sys.argv[1:])
