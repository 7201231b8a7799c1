"""configs/local-rag.yaml for real: a tier that writes, one that embeds and one that reranks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import openai
import pytest

from tests.serve.conftest import run_dir
from tests.serve.service import ROOT, Service, running_service, settled, wait_for

pytestmark = pytest.mark.serve

QUERY = "What is the capital of Japan?"
DOCUMENTS = [
    "The capital of France is Paris.",
    "The chemical symbol for iron is Fe.",
    "The capital of Japan is Tokyo.",
    "The opposite of hot is cold.",
]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The shipped config, with a price for each tier."""
    directory = run_dir(tmp_path_factory)
    with running_service(ROOT / "configs" / "local-rag.yaml", directory) as running:
        yield running


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[openai.OpenAI]:
    """The official client, unmodified."""
    with openai.OpenAI(base_url=f"{service.base_url}/v1", api_key="none", max_retries=0) as client:
        yield client


def post(service: Service, path: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{service.base_url}{path}", json=body, timeout=60)


def cosine(one: Sequence[float], two: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(one, two, strict=True))


def test_each_call_finds_the_tier_of_its_task(service: Service, client: openai.OpenAI) -> None:
    """By `auto`, by the tier's name and by the model's; chat stays on the tier that writes."""
    for model in ("auto", "embed", "demo-embed"):
        raw = client.embeddings.with_raw_response.create(model=model, input=DOCUMENTS)
        assert raw.headers["x-route-tier"] == "embed"
        assert len(raw.parse().data) == len(DOCUMENTS)
    for path, body in (
        ("/v1/rerank", {"query": QUERY, "documents": DOCUMENTS}),
        ("/v1/score", {"text_1": QUERY, "text_2": DOCUMENTS}),
    ):
        answer = post(service, path, **body)
        assert (answer.status_code, answer.headers["x-route-tier"]) == (200, "rerank"), answer.text
        assert answer.headers["x-route-reason"] == "only_tier"
        assert "x-route-score" not in answer.headers
        assert answer.json()["usage"]["prompt_tokens"] > len(DOCUMENTS)
    chat = service.chat(messages=[{"role": "user", "content": QUERY}], max_tokens=16)
    assert (chat.status_code, chat.headers["x-route-tier"]) == (200, "fast")
    with pytest.raises(openai.BadRequestError, match="a model that can generate text"):
        client.chat.completions.create(model="embed", messages=[{"role": "user", "content": "Hi"}])
    with pytest.raises(openai.BadRequestError, match="a model that supports embeddings"):
        client.embeddings.create(model="rerank", input="Hi")


def test_vectors_have_the_form_that_is_asked_for(client: openai.OpenAI) -> None:
    """Texts and token ids, numbers and base64, and fewer dimensions: each a vector of length 1."""
    plain = client.embeddings.create(model="embed", input=QUERY, encoding_format="float")
    coded = client.embeddings.create(model="embed", input=QUERY)
    short = client.embeddings.create(model="embed", input=QUERY, dimensions=16)
    ids = client.embeddings.create(model="embed", input=[[1, 2, 3], [4]])
    assert plain.data[0].embedding == pytest.approx(coded.data[0].embedding, abs=1e-6)
    assert len(short.data[0].embedding) == 16
    assert ids.usage.prompt_tokens == 4
    for answer in (plain, short, ids):
        assert math.hypot(*answer.data[0].embedding) == pytest.approx(1, abs=0.01)


def test_the_nearest_answers_the_question_and_ranks_are_scores(
    service: Service, client: openai.OpenAI
) -> None:
    """The embedding model was trained for such questions; the reranker sorts by its score."""
    asked, *found = client.embeddings.create(model="auto", input=[QUERY, *DOCUMENTS]).data
    nearness = [cosine(asked.embedding, each.embedding) for each in found]
    assert nearness.index(max(nearness)) == 2
    ranked = post(service, "/v1/rerank", query=QUERY, documents=DOCUMENTS, top_n=2).json()
    scores = [result["relevance_score"] for result in ranked["results"]]
    assert len(scores) == 2
    assert scores == sorted(scores, reverse=True)
    pairs = post(service, "/v1/score", text_1=QUERY, text_2=DOCUMENTS).json()["data"]
    assert scores[0] == pytest.approx(max(pair["score"] for pair in pairs), abs=0.01)
    first = ranked["results"][0]
    assert first["document"]["text"] == DOCUMENTS[first["index"]]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/embeddings", {"input": "a " * 9000}, "input"),
        ("/v1/embeddings", {"input": "Hi", "encoding_format": "bytes"}, "encoding_format"),
        ("/v1/embeddings", {"input": "Hi", "padding": "max_length"}, "padding"),
        ("/v1/rerank", {"query": QUERY, "documents": ["a " * 9000]}, "documents"),
        ("/v1/rerank", {"query": QUERY, "documents": ["a"], "top_n": -1}, "top_n"),
        ("/v1/score", {"text_1": QUERY, "text_2": ["a"] * 2049}, "text_2"),
    ],
)
def test_a_refusal_names_the_field(
    service: Service, path: str, body: dict[str, Any], param: str
) -> None:
    """The Router's own refusals, and those of an engine whose context is too short."""
    answer = post(service, path, **body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text


def test_many_texts_are_one_call(service: Service, client: openai.OpenAI) -> None:
    """The engine batches the texts; the tokens of all of them are counted for the tier."""

    def counted() -> float:
        return service.metric_by("ray_serve_app_tokens_total", "tier").get("embed", 0.0)

    before = settled(counted)
    answer = client.embeddings.create(model="embed", input=["one two three"] * 256)
    assert [each.index for each in answer.data] == [*range(256)]
    tokens = answer.usage.prompt_tokens
    assert tokens == answer.usage.total_tokens >= 256
    wait_for(lambda: counted() == before + tokens, timeout_s=20, what="the tokens are counted")
