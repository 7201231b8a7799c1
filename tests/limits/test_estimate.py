"""What is reserved for a call, and what is charged for it."""

from __future__ import annotations

import orjson
import pytest

from serve_app.config.prices import PriceConfig, PricesConfig
from serve_app.config.tiers import TierConfig
from serve_app.core.call import CacheResult, Draft, Endpoint, Outcome, Record, Usage
from serve_app.core.tokens import estimate_text_tokens, estimate_tokens
from serve_app.gateway.wire import parse_call
from serve_app.limits.estimate import Estimator
from serve_app.limits.limit import Measure
from tests.limits.samples import CASCADE, FAST, ROUTE, STRONG, call_of, record_of

PROMPT = estimate_tokens(call_of().prompt)
PRICES = PricesConfig(
    tiers={"fast": PriceConfig(input=1, output=2), "strong": PriceConfig(input=10, output=20)}
)


def estimator(unbounded: int | None = None) -> Estimator:
    tiers = (
        TierConfig(name="fast", model_id="demo-fast", engine={"max_model_len": 1000}),
        TierConfig(name="strong", model_id="demo-strong", engine={"max_model_len": 500}),
    )
    return Estimator(tiers, PRICES, unbounded_output_tokens=unbounded, checkpoint_tokens=16)


@pytest.mark.parametrize(
    ("asked", "answers", "unbounded", "output"),
    [
        (10, 1, None, 10),
        (10, 3, None, 30),
        (5000, 1, None, 1000 - PROMPT),
        (None, 1, None, 1000 - PROMPT),
        (None, 1, 64, 64),
        (10, 1, 64, 10),
        (-1, 1, None, 0),
    ],
)
def test_a_call_reserves_its_prompt_and_its_longest_answer(
    asked: int | None, answers: int, unbounded: int | None, output: int
) -> None:
    """The body bounds the answer, or the context, or the config."""
    call = call_of(output_tokens_max=asked, answers=answers)
    uses = estimator(unbounded).estimate(call, ROUTE)
    assert uses.amount(Measure.TOKENS, None) == uses.amount(Measure.TOKENS, "fast")
    assert uses.amount(Measure.TOKENS, None) == PROMPT + output
    assert uses.amount(Measure.MONEY, None) == 1000 * PROMPT + 2000 * output
    assert uses.amount(Measure.REQUESTS, None) == uses.amount(Measure.REQUESTS, "fast") == 1
    assert uses.amount(Measure.REQUESTS, "strong") == uses.amount(Measure.TOKENS, "strong") == 0


def test_a_cascade_reserves_the_draft_and_the_answer() -> None:
    """The draft counts up to its checkpoint, and may also be released whole."""
    uses = estimator().estimate(call_of(output_tokens_max=10), CASCADE)
    assert uses.amount(Measure.TOKENS, None) == PROMPT + 16 + PROMPT + 10
    assert uses.amount(Measure.TOKENS, "fast") == PROMPT + 16
    assert uses.amount(Measure.TOKENS, "strong") == PROMPT + 10
    whole = estimator().estimate(call_of(output_tokens_max=None), CASCADE)
    assert whole.amount(Measure.TOKENS, None) == max(1000, PROMPT + 16 + 500)


@pytest.mark.parametrize(
    "endpoint", [Endpoint.TOKENIZE, Endpoint.COUNT_TOKENS, Endpoint.DETOKENIZE]
)
def test_a_call_that_no_model_answers_uses_a_request_only(endpoint: Endpoint) -> None:
    """Counting tokens costs no tokens."""
    uses = estimator().estimate(call_of(endpoint=endpoint), ROUTE)
    assert uses.amount(Measure.TOKENS, None) == uses.amount(Measure.MONEY, None) == 0
    assert uses.amount(Measure.REQUESTS, "fast") == 1


def count(record: Record) -> tuple[int, int]:
    estimate = estimator().estimate(call_of(output_tokens_max=10), ROUTE)
    uses = estimator().count(record, estimate)
    return uses.amount(Measure.TOKENS, None), uses.amount(Measure.MONEY, None)


def test_an_answer_is_charged_as_its_engine_counted_it() -> None:
    """Whatever the estimate was; and by the price of the tier that answered in the end."""
    assert count(record_of(7, 5)) == (12, 7000 + 10_000)
    assert count(record_of(7, 5, decision=STRONG)) == (12, 70_000 + 100_000)


def test_a_discarded_draft_is_charged_beside_the_answer() -> None:
    """To its own tier, at its own price; a released draft is the answer."""
    record = record_of(7, 5, decision=STRONG)
    record.draft = Draft("fast", discarded=True, usage=Usage(7, 16), model_id="demo-fast")
    assert count(record) == (12 + 23, 70_000 + 100_000 + 7000 + 32_000)
    uses = estimator().count(record, estimator().estimate(call_of(), CASCADE))
    assert uses.amount(Measure.TOKENS, "fast") == 23
    assert uses.amount(Measure.TOKENS, "strong") == 12
    assert uses.amount(Measure.REQUESTS, "fast") == 1
    released = record_of(7, 5, decision=FAST)
    released.draft = Draft("fast", model_id="demo-fast", usage=Usage(7, 16))
    assert count(released) == (12, 17_000)


@pytest.mark.parametrize("result", [CacheResult.HIT, CacheResult.SHARED])
def test_an_answer_from_the_cache_is_a_request_and_no_more(result: CacheResult) -> None:
    """The tokens of a stored answer were paid by the call that made it."""
    record = record_of(7, 5)
    record.cache = result
    assert count(record) == (0, 0)


@pytest.mark.parametrize(
    ("outcome", "status", "first_byte_s", "charged"),
    [
        (Outcome.DISCONNECTED, 200, 0.1, True),
        (Outcome.OK, 200, 0.1, True),
        (Outcome.DISCONNECTED, 0, None, False),
        (Outcome.BROKEN_STREAM, 200, 0.1, False),
        (Outcome.CLIENT_ERROR, 400, 0.1, False),
        (Outcome.SERVER_ERROR, 503, None, False),
    ],
)
def test_an_answer_that_nobody_counted(
    outcome: Outcome, status: int, first_byte_s: float | None, charged: bool
) -> None:
    """Is charged by its estimate if the client got some of it, and not at all if the service or the
    engine refused it or broke it off."""
    record = record_of()
    record.outcome, record.status, record.first_byte_s = outcome, status, first_byte_s
    assert count(record)[0] == (PROMPT + 10 if charged else 0)


def test_a_stream_that_was_cut_off_is_charged_for_what_was_generated() -> None:
    """The replica reports the tokens of an answer that its client left."""
    record = record_of(7, 2)
    record.outcome = Outcome.DISCONNECTED
    assert count(record) == (9, 7000 + 4000)


def test_embeddings_are_charged_for_their_prompt() -> None:
    """They generate nothing, and are reserved without an answer."""
    uses = estimator().estimate(call_of(endpoint=Endpoint.EMBEDDINGS), ROUTE)
    assert uses.amount(Measure.TOKENS, None) == PROMPT
    assert count(record_of(7, None, endpoint=Endpoint.EMBEDDINGS)) == (7, 7000)


def test_a_query_is_reserved_once_for_each_document() -> None:
    """The engine reads it again with each of them."""
    query, documents = "word " * 100, ["a"] * 10
    body = orjson.dumps({"query": query, "documents": documents})
    call = parse_call(Endpoint.RERANK, body, request_id="r", tier=None)
    tokens = estimator().estimate(call, ROUTE).amount(Measure.TOKENS, None)
    assert 10 * estimate_text_tokens(query) < tokens < 11 * estimate_text_tokens(query)
