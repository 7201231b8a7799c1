"""The audit log behind the real gateway: what a client did is what the record says."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from serve_app.audit.build import build_log
from serve_app.audit.log import AuditLog
from serve_app.audit.seal import write_keys
from serve_app.config.audit import AuditConfig
from serve_app.config.prices import PriceConfig, PricesConfig
from serve_app.core.call import CacheResult, Draft, Usage
from serve_app.core.errors import TierUnavailable, UpstreamFailed
from serve_app.steps import Steps
from tests.fakes import FakeAnswer
from tests.gateway.conftest import Gateway

STREAM = [
    b'data: {"choices":[{"index":0,"delta":{"content":"I am eve@exam"}}]}\n\n',
    b'data: {"choices":[{"index":0,"delta":{"content":"ple.org"}}]}\n\n',
    b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2,'
    b'"prompt_tokens_details":{"cached_tokens":4}}}\n\n',
    b"data: [DONE]\n\n",
]
PRICES = PricesConfig(
    tiers={
        "fast": PriceConfig(input=1, output=2, cached_input=0.5),
        "strong": PriceConfig(input=10, output=20),
    }
)


def open_log(root: Path, **changes: object) -> AuditLog:
    if not (root / "audit.key").exists():
        write_keys(root / "audit.key")
    fields = {"directory": str(root / "log"), "key_file": str(root / "audit.key"), **changes}
    return build_log(AuditConfig.model_validate(fields), "EUR", "r1", "node")


def settled(gateway: Gateway, log: AuditLog, root: Path) -> list[dict[str, object]]:
    """What the log holds after all calls have been settled."""
    for record in gateway.recorder.records:
        gateway.pipeline.settle(record)
    log._writer.work(ends=True)
    [path] = (root / "log").glob("*.jsonl")
    lines = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    return [line for line in lines if line["kind"] == "call"]


async def test_a_stream(gateway: Gateway, tmp_path: Path) -> None:
    """The record has the caller's call, the decision, the tokens and the money, without texts."""
    log = open_log(tmp_path)
    gateway.pipeline.steps = Steps(audit=log, prices=PRICES)
    gateway.fast.answer = FakeAnswer(STREAM, content_type=b"text/event-stream")
    answer = await gateway.chat(stream=True)
    assert answer.status_code == 200
    [call] = settled(gateway, log, tmp_path)
    expected = {
        "request_id": answer.headers["x-request-id"], "tenant": "anonymous", "key_id": None,
        "endpoint": "/v1/chat/completions", "stream": True, "status": 200, "outcome": "ok",
        "tier": "fast", "model": "demo-fast", "reason": "simple", "prompt_tokens": 9,
        "cached_tokens": 4, "completion_tokens": 2, "currency": "EUR",
        "cost_nanos": 1000 * 5 + 500 * 4 + 2000 * 2,
        "strong_cost_nanos": 10_000 * 9 + 20_000 * 2,
    }  # fmt: skip
    assert {key: call[key] for key in expected} == expected
    assert "example" not in str(call)
    assert not {"prompt", "answer"} & call.keys()


async def test_texts_are_kept_redacted(gateway: Gateway, tmp_path: Path) -> None:
    """Only if the config says so."""
    log = open_log(tmp_path, content=["prompts", "answers"])
    gateway.pipeline.steps = Steps(audit=log)
    gateway.fast.answer = FakeAnswer(STREAM, content_type=b"text/event-stream")
    await gateway.chat(stream=True)
    [call] = settled(gateway, log, tmp_path)
    assert call["prompt"] == [{"role": "user", "text": "Hello"}]
    assert call["answer"] == [{"part": "0.content", "text": "I am [email]"}]


@pytest.mark.parametrize(
    ("answer", "outcome", "status", "code"),
    [
        (TierUnavailable(1), "server_error", 503, "model_unavailable"),
        (FakeAnswer([b'{"error":{}}'], status=400), "client_error", 400, "engine"),
        (
            FakeAnswer(STREAM[:1], content_type=b"text/event-stream", error=UpstreamFailed()),
            "broken_stream",
            200,
            "upstream_failed",
        ),
    ],
)
async def test_outcomes(
    gateway: Gateway,
    tmp_path: Path,
    answer: FakeAnswer | TierUnavailable,
    outcome: str,
    status: int,
    code: str,
) -> None:
    """The outcome is that of the last byte: a stream that broke off began with 200."""
    log = open_log(tmp_path, content=["answers"])
    gateway.pipeline.steps = Steps(audit=log)
    gateway.fast.answer = gateway.strong.answer = answer
    await gateway.chat(stream=True)
    [call] = settled(gateway, log, tmp_path)
    assert (call["outcome"], call["status"], call["code"]) == (outcome, status, code)
    if outcome == "broken_stream":
        assert call["answer"] == [{"part": "0.content", "text": "I am eve@exam"}]


async def test_calls_that_never_were(gateway: Gateway, tmp_path: Path) -> None:
    """A call that cannot be read is recorded too."""
    log = open_log(tmp_path)
    gateway.pipeline.steps = Steps(audit=log)
    await gateway.client.post("/v1/messages", content=b"{", headers={"content-type": "text/plain"})
    [call] = settled(gateway, log, tmp_path)
    assert (call["status"], call["tier"], call["endpoint"]) == (415, None, "/v1/messages")


async def test_calls_are_refused_while_none_can_be_recorded(
    gateway: Gateway, tmp_path: Path
) -> None:
    """503 with Retry-After, and no engine is asked."""
    log = open_log(tmp_path)
    gateway.pipeline.steps = Steps(audit=log)
    log._writer.failing = True
    answer = await gateway.chat()
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "audit_unavailable")
    assert int(answer.headers["retry-after"]) > 0
    assert not gateway.fast.requests


async def test_what_all_strong_would_have_cost(gateway: Gateway) -> None:
    """Routing saves on calls that the Router may route: not on calls that name their tier, and not
    on answers from the cache. A discarded draft is paid for beside the answer."""
    gateway.pipeline.steps = Steps(prices=PRICES)
    for body in ({}, {"model": "fast"}, {}, {}):
        await gateway.chat(**body)
    plain, named, hit, escalated = gateway.recorder.records
    for record in (plain, named, hit, escalated):
        record.usage = Usage(10, 1)
    hit.cache = CacheResult.HIT
    escalated.draft = Draft("fast", model_id="demo-fast", discarded=True, usage=Usage(10, 8))
    for record in gateway.recorder.records:
        gateway.pipeline.settle(record)
    assert [(r.cost, r.strong_cost) for r in gateway.recorder.records] == [
        (12_000, 120_000),
        (12_000, 12_000),
        (0, 0),
        (12_000 + 26_000, 120_000),
    ]
    gateway.pipeline.steps = Steps(prices=PricesConfig(tiers={"fast": PRICES.tiers["fast"]}))
    gateway.pipeline.settle(plain)
    assert (plain.cost, plain.strong_cost) == (12_000, None)
