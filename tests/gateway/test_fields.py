"""The tables of body fields: nothing that vLLM obeys is missing, and each ruling is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from serve_app.config.bodies import OPTIONAL_FIELDS, BodiesConfig
from serve_app.core.call import Endpoint
from serve_app.core.errors import RefusedField, UnknownField
from serve_app.gateway.field_docs import render_field_tables
from serve_app.gateway.fields import FIELDS, Ruling, admit_fields

DEFAULTS = BodiesConfig()
RULINGS = [
    (endpoint, name, rule) for endpoint, table in FIELDS.items() for name, rule in table.items()
]


def request_models() -> dict[Endpoint, list[type[BaseModel]]]:
    """The request models of the pinned vLLM, by the path that takes them."""
    from vllm.entrypoints.anthropic import protocol as anthropic
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest
    from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
    from vllm.entrypoints.pooling.embed import protocol as embed
    from vllm.entrypoints.pooling.scoring import protocol as scoring
    from vllm.entrypoints.serve.tokenize import protocol as tokenize

    return {
        Endpoint.CHAT: [ChatCompletionRequest],
        Endpoint.COMPLETIONS: [CompletionRequest],
        Endpoint.RESPONSES: [ResponsesRequest],
        Endpoint.MESSAGES: [anthropic.AnthropicMessagesRequest],
        Endpoint.COUNT_TOKENS: [anthropic.AnthropicCountTokensRequest],
        Endpoint.TOKENIZE: [tokenize.TokenizeCompletionRequest, tokenize.TokenizeChatRequest],
        Endpoint.DETOKENIZE: [tokenize.DetokenizeRequest],
        Endpoint.EMBEDDINGS: [
            embed.EmbeddingCompletionRequest,
            embed.EmbeddingChatRequest,
            embed.EmbeddingBatchChatRequest,
            embed.EmbeddingChatInputRequest,
            embed.EmbeddingBatchChatInputRequest,
        ],
        Endpoint.RERANK: [scoring.RerankRequest],
        Endpoint.SCORE: [*get_args(scoring.ScoreRequest)],
    }


def names(model: type[BaseModel]) -> set[str]:
    fields = model.model_fields
    return {alias for name, field in fields.items() for alias in (name, field.alias) if alias}


def test_no_field_of_the_engine_is_unseen() -> None:
    """Whatever a request model of the pinned vLLM has, the table of its endpoint rules on; what a
    table says of the engine, the engine's model has."""
    for endpoint, models in request_models().items():
        found = set().union(*map(names, models))
        known = {name for name, rule in FIELDS[endpoint].items() if rule.engine}
        assert found == known, endpoint


def test_every_endpoint_has_a_table() -> None:
    """And every switch opens a field, but for the one that opens tools."""
    assert set(FIELDS) == set(Endpoint)
    opened = {name for _, name, rule in RULINGS if rule.ruling is Ruling.OPT_IN}
    assert opened == OPTIONAL_FIELDS - {"server_tools"}
    assert all(rule.why for _, _, rule in RULINGS if rule.ruling is not Ruling.FORWARD)


@pytest.mark.parametrize(("endpoint", "name", "rule"), RULINGS)
def test_each_ruling_is_kept(endpoint: Endpoint, name: str, rule: Any) -> None:
    """Forwarded, dropped or refused, whatever is said of unknown fields."""
    for unknown in ("drop", "refuse", "pass"):
        config = BodiesConfig.model_validate({"unknown_fields": unknown})
        try:
            admitted: object = admit_fields(endpoint, {name: 1}, config)
        except RefusedField as error:
            admitted = error.param
        expected: dict[Ruling, object] = {Ruling.FORWARD: {name: 1}, Ruling.DROP: {}}
        assert admitted == expected.get(rule.ruling, name)


@pytest.mark.parametrize("endpoint", Endpoint)
def test_a_refused_field_without_a_value_is_dropped(endpoint: Endpoint) -> None:
    """Clients write null where they mean nothing."""
    refused = [n for n, rule in FIELDS[endpoint].items() if rule.ruling.startswith(("r", "o"))]
    assert admit_fields(endpoint, dict.fromkeys(refused), DEFAULTS) == {}


def test_a_switch_opens_its_field_and_no_other() -> None:
    """What the operator allows is forwarded."""
    config = BodiesConfig(allowed_fields=("priority",))
    assert admit_fields(Endpoint.CHAT, {"priority": 1}, config) == {"priority": 1}
    with pytest.raises(RefusedField) as caught:
        admit_fields(Endpoint.CHAT, {"priority": 1, "vllm_xargs": {}}, config)
    assert caught.value.param == "vllm_xargs"


def test_unknown_fields_follow_the_policy() -> None:
    """Dropped, refused by name, or passed on."""
    body = {"messages": [], "colour": "red"}
    assert admit_fields(Endpoint.CHAT, body, DEFAULTS) == {"messages": []}
    passing = BodiesConfig(unknown_fields="pass")
    assert admit_fields(Endpoint.CHAT, body, passing) == body
    with pytest.raises(UnknownField) as caught:
        admit_fields(Endpoint.CHAT, body, BodiesConfig(unknown_fields="refuse"))
    assert caught.value.param == "colour"


def test_the_page_on_fields_is_true() -> None:
    """docs/fields.md ends with the tables that the gateway goes by."""
    page = Path(__file__).parents[2].joinpath("docs", "fields.md").read_text()
    assert page.endswith(render_field_tables())


def test_a_usual_body_is_not_copied() -> None:
    """Where every field may stay, nothing is built anew."""
    body = {"model": "auto", "messages": [], "stream": True}
    assert admit_fields(Endpoint.CHAT, body, DEFAULTS) is body
