"""The schemas of vLLM's requests and answers, reduced to what passes through this service.

vLLM's models are the schema that a call is held against in the end, so they are read here, not
copied. They are reduced in four ways: fields that this service refuses are left out, unions keep
only the members that a self-hosted model can act on, texts below the first level go, and
definitions that nothing refers to any more go too.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import JsonSchemaMode
from vllm.entrypoints.anthropic import protocol as anthropic
from vllm.entrypoints.openai.chat_completion import protocol as chat
from vllm.entrypoints.openai.completion import protocol as completion
from vllm.entrypoints.openai.responses import protocol as responses
from vllm.entrypoints.pooling.embed import protocol as embed
from vllm.entrypoints.pooling.scoring import protocol as scoring
from vllm.entrypoints.serve.tokenize import protocol as tokenize

from serve_app.core.call import Endpoint

Json = dict[str, Any]
Schemas = dict[Endpoint, Json]
Key = tuple[Endpoint, int]
Notes = Mapping[str, str]
Members = Mapping[str, Collection[str]]

REF_PREFIX = "#/components/schemas/"

REQUESTS: Mapping[Endpoint, tuple[Any, ...]] = {
    Endpoint.CHAT: (chat.ChatCompletionRequest,),
    Endpoint.COMPLETIONS: (completion.CompletionRequest,),
    Endpoint.RESPONSES: (responses.ResponsesRequest,),
    Endpoint.INPUT_TOKENS: (responses.ResponsesRequest,),
    Endpoint.MESSAGES: (anthropic.AnthropicMessagesRequest,),
    Endpoint.COUNT_TOKENS: (anthropic.AnthropicCountTokensRequest,),
    Endpoint.EMBEDDINGS: (embed.EmbeddingCompletionRequest, embed.EmbeddingChatRequest),
    Endpoint.RERANK: (scoring.RerankRequest,),
    Endpoint.SCORE: (
        scoring.ScoreTextRequest,
        scoring.ScoreQueriesDocumentsRequest,
    ),
    Endpoint.TOKENIZE: (tokenize.TokenizeCompletionRequest, tokenize.TokenizeChatRequest),
    Endpoint.DETOKENIZE: (tokenize.DetokenizeRequest,),
}

ANSWERS: Mapping[Endpoint, Any] = {
    Endpoint.CHAT: chat.ChatCompletionResponse,
    Endpoint.COMPLETIONS: completion.CompletionResponse,
    Endpoint.RESPONSES: responses.ResponsesResponse,
    Endpoint.MESSAGES: anthropic.AnthropicMessagesResponse,
    Endpoint.COUNT_TOKENS: anthropic.AnthropicCountTokensResponse,
    Endpoint.EMBEDDINGS: embed.EmbeddingResponse,
    Endpoint.RERANK: scoring.RerankResponse,
    Endpoint.SCORE: scoring.ScoreResponse,
    Endpoint.TOKENIZE: tokenize.TokenizeResponse,
    Endpoint.DETOKENIZE: tokenize.DetokenizeResponse,
}

ANSWER = -1
"""Stands beside the places of an endpoint's request models."""

TOOL_CHOICES = frozenset({"ToolChoiceAllowed", "ToolChoiceFunction"})

KEPT_MEMBERS: Mapping[str, Members] = {
    "ResponsesRequest": {
        "input": {
            "EasyInputMessageParam",
            "FunctionCallOutput",
            "ResponseFunctionToolCallParam",
            "ResponseOutputMessageParam",
            "ResponseReasoningItemParam",
            "Message",
        },
        "tools": {"FunctionTool"},
        "tool_choice": TOOL_CHOICES,
    },
    "ResponsesResponse": {
        "output": {"ResponseOutputMessage", "ResponseFunctionToolCall", "ResponseReasoningItem"},
        "tools": {"FunctionTool"},
        "tool_choice": TOOL_CHOICES,
    },
}
"""Of Responses' unions: the other members are tools that OpenAI's servers run, and their calls."""

REFUSED_MEMBERS = frozenset(
    {
        "ChatCompletionContentPartAudioEmbedsParam",
        "ChatCompletionContentPartImageEmbedsParam",
        "ChatCompletionContentPartPromptEmbedsParam",
        "ChatCompletionContentPartVideoEmbedsParam",
        "ScoreMultiModalParam",
        "openai_harmony__Message",
    }
)
"""Parts that an engine would unpickle, messages in the form of models that are not Qwen's, and
images for `/v1/rerank` and `/v1/score`, which take texts."""

HIDDEN_ANSWER_FIELDS = frozenset(
    {"kv_transfer_params", "ec_transfer_params", "input_messages", "output_messages", "prompt"}
)
"""Answered only to requests that this service does not let through."""


def build_schemas(fields: Mapping[Endpoint, Notes]) -> tuple[Json, Schemas, Schemas]:
    """The definitions, and each endpoint's schema of requests and of answers.

    `fields` holds those that this service takes of each endpoint's body, with what it adds to
    vLLM's description.
    """
    references, definitions = _definitions()
    reduced = {name: _bare(definition) for name, definition in definitions.items()}
    for (endpoint, index), reference in references.items():
        name = reference["$ref"].removeprefix(REF_PREFIX)
        definition, members = definitions[name], KEPT_MEMBERS.get(_short(name), {})
        reduced[name] = (
            _reduce_answer(definition, members)
            if index == ANSWER
            else _reduce_request(definition, fields[endpoint], members)
        )
    requests = {
        endpoint: _union([references[endpoint, index] for index in range(len(kinds))])
        for endpoint, kinds in REQUESTS.items()
    }
    answers = {endpoint: references[endpoint, ANSWER] for endpoint in ANSWERS}
    used = _referenced(reduced, [*requests.values(), *answers.values()])
    return {name: reduced[name] for name in sorted(used)}, requests, answers


def _definitions() -> tuple[dict[Key, Json], Json]:
    """A reference to every model, by endpoint and place, and what all of them refer to.

    One call for all: pydantic then keeps apart what has the same name.
    """
    keyed = [
        ((endpoint, index), TypeAdapter(kind))
        for endpoint, kinds in REQUESTS.items()
        for index, kind in enumerate(kinds)
    ]
    keyed += [((endpoint, ANSWER), TypeAdapter(kind)) for endpoint, kind in ANSWERS.items()]
    # Of answers too what must be there, not what pydantic fills in: engines leave out what is null.
    inputs: list[tuple[Key, JsonSchemaMode, TypeAdapter[Any]]] = [
        (key, "validation", adapter) for key, adapter in keyed
    ]
    found, schema = TypeAdapter.json_schemas(inputs, ref_template=REF_PREFIX + "{model}")
    return {key: reference for (key, _), reference in found.items()}, schema["$defs"]


def _reduce_request(definition: Json, notes: Notes, members: Members) -> Json:
    """The fields that are taken.

    A request without a model is for the Router to choose, and one without a prompt is refused.
    """
    properties = {
        field: _keep_members(_described(value, notes[field]), members.get(field))
        for field, value in definition["properties"].items()
        if field in notes
    }
    if "messages" in properties:
        properties["messages"]["minItems"] = 1
    needed = {*definition.get("required", ()), "prompt"} - {"model"}
    required = [field for field in properties if field in needed]
    properties |= {field: _not_null(properties[field]) for field in required}
    return {**_bare(definition), "properties": properties, "required": required}


def _not_null(schema: Json) -> Json:
    kept = {key: value for key, value in schema.items() if key != "default"}
    if "anyOf" in kept:
        kept["anyOf"] = [member for member in kept["anyOf"] if member != {"type": "null"}]
    return kept


def _reduce_answer(definition: Json, members: Members) -> Json:
    properties = {
        field: _keep_members(_described(value), members.get(field))
        for field, value in definition["properties"].items()
        if field not in HIDDEN_ANSWER_FIELDS
    }
    return {**_bare(definition), "properties": properties}


def _described(schema: Json, note: str = "") -> Json:
    """A field of the first level: its own description stays."""
    text = " ".join(f"{schema.get('description', '')} {note}".split())
    return {**_bare(schema), **({"description": text} if text else {})}


def _bare(schema: Any) -> Any:
    """Without titles, descriptions, refused members of unions, and vLLM's own fields (`_...`)."""
    if isinstance(schema, list):
        return [_bare(item) for item in schema if not _is_refused(item)]
    if not isinstance(schema, dict):
        return schema
    return {
        key: {name: _bare(item) for name, item in value.items() if not name.startswith("_")}
        if key == "properties"
        else _bare(value)
        for key, value in schema.items()
        if key not in ("title", "description")
    }


def _is_refused(schema: Any) -> bool:
    reference = schema.get("$ref", "") if isinstance(schema, dict) else ""
    return reference.removeprefix(REF_PREFIX) in REFUSED_MEMBERS


def _keep_members(schema: Any, kept: Collection[str] | None) -> Any:
    """The schema with only these definitions in its unions; None keeps all."""
    if kept is None:
        return schema
    if isinstance(schema, list):
        return [_keep_members(item, kept) for item in schema if _is_kept(item, kept)]
    if not isinstance(schema, dict):
        return schema
    kept_keys = schema.keys() - {"discriminator"}
    return {key: _keep_members(schema[key], kept) for key in schema if key in kept_keys}


def _is_kept(schema: Any, kept: Collection[str]) -> bool:
    names = {_short(name) for name in _references(schema)}
    return not names or bool(names & set(kept))


def _short(name: str) -> str:
    """The class's name: pydantic adds its module, or `-Input`, where one name is not enough."""
    return name.rpartition("__")[2].partition("-")[0]


def _union(schemas: list[Json]) -> Json:
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}


def _referenced(definitions: Json, roots: Any) -> set[str]:
    """Every definition that the roots need."""
    needed: set[str] = set()
    waiting = set(_references(roots))
    while waiting:
        name = waiting.pop()
        needed.add(name)
        waiting |= set(_references(definitions[name])) - needed
    return needed


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        target = schema.get("$ref")
        if isinstance(target, str):
            yield target.removeprefix(REF_PREFIX)
        for value in schema.values():
            yield from _references(value)
    elif isinstance(schema, list):
        for item in schema:
            yield from _references(item)
