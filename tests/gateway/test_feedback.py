"""Calls that are kept, their labels, and `/v1/feedback`: over HTTP, without Ray."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve_app.config.runtime import RuntimeConfig
from serve_app.core.call import GENERATION_ENDPOINTS, Endpoint
from serve_app.core.errors import DeadlineExceeded
from serve_app.feedback.collector import FeedbackCollector
from serve_app.feedback.tally import Fate, Judged, band_of
from serve_app.gateway.app import build_gateway
from serve_app.offline.learning.records import read_records
from serve_app.pipeline import Pipeline
from serve_app.routing.scorer import HeuristicScorer
from tests.fakes import FakeReadiness, FakeRecorder
from tests.feedback.fakes import TalkingTier, until
from tests.gateway.conftest import TIERS

YES = {"x-feedback-consent": "yes"}
NO = {"x-feedback-consent": "no"}
SLOW = r"(?:(?:a+)+)+b"
"""Tries every way to part a row of a's: longer than any text may take."""

BODIES: dict[Endpoint, dict[str, Any]] = {
    Endpoint.CHAT: {"messages": [{"role": "user", "content": "Hi"}]},
    Endpoint.COMPLETIONS: {"prompt": "Hi"},
    Endpoint.RESPONSES: {"input": "Hi"},
    Endpoint.MESSAGES: {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9},
}


@dataclass
class Service:
    """A gateway that keeps feedback, and everything around it."""

    client: httpx.AsyncClient
    pipeline: Pipeline
    feedback: FeedbackCollector
    fast: TalkingTier
    strong: TalkingTier
    directory: Path

    def configure(self, **feedback: object) -> None:
        runtime = RuntimeConfig.model_validate(
            {"feedback": {"directory": str(self.directory), "sample_ratio": 1, **feedback}}
        )
        self.pipeline.runtime = runtime
        self.feedback.configure(runtime)

    async def chat(self, headers: dict[str, str] | None = None, **body: object) -> httpx.Response:
        document = {**BODIES[Endpoint.CHAT], **body}
        return await self.client.post(Endpoint.CHAT, json=document, headers=headers or YES)

    async def report(self, **body: object) -> httpx.Response:
        return await self.client.post("/v1/feedback", json=body)

    async def lines(self) -> list[dict[str, Any]]:
        """What is on disk once all that is under way is done."""
        await self.feedback.close()
        return [
            json.loads(line)
            for path in sorted(self.directory.glob("calls_*"))
            for line in path.read_bytes().splitlines()
        ]

    async def kinds(self) -> list[str]:
        return [line["kind"] for line in await self.lines()]


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    """Everything is sampled; nothing may be left open after a test."""
    fast, strong = TalkingTier(), TalkingTier()
    tiers = {"fast": fast, "strong": strong}
    runtime = RuntimeConfig()
    feedback = FeedbackCollector(
        TIERS, tiers, runtime, "r1", flush_s=0.05, quiet_s=0.2, redact_s_max=1.0
    )
    assert feedback.labeller is not None
    pipeline = Pipeline(TIERS, tiers, HeuristicScorer(), runtime, feedback.labeller)
    app = build_gateway(TIERS, pipeline, FakeRecorder(), FakeReadiness(), feedback=feedback)
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    client = httpx.AsyncClient(transport=transport, base_url="http://test")
    service = Service(client, pipeline, feedback, fast, strong, tmp_path / "log")
    service.configure()
    yield service
    await feedback.close()
    await client.aclose()
    assert fast.open_exchanges == strong.open_exchanges == 0


async def test_a_call_and_its_label_are_kept(service: Service) -> None:
    """A while after the last call the other tier is asked; `learn` reads what comes of it."""
    service.strong.say = lambda body: "41"
    answered = await service.chat()
    assert answered.headers["x-route-tier"] == "fast"
    await until(lambda: service.feedback.tally.fates[Fate.LABELLED_MATCH])
    band = band_of(float(answered.headers["x-route-score"]))
    assert service.feedback.tally.take_judged() == {
        Judged("fast", False, band): 1,
        Judged("strong", True, band): 1,
    }
    call, label = await service.lines()
    request_id = answered.headers["x-request-id"]
    assert call["request_id"] == label["request_id"] == request_id
    assert call["messages"] == [{"role": "user", "content": "Hi"}]
    assert (call["answered_by"], call["answered_by_large"]) == ("fast", False)
    assert (call["small_model"], call["large_model"]) == ("demo-fast", "demo-strong")
    assert call["score"] == pytest.approx(float(answered.headers["x-route-score"]), abs=1e-4)
    assert "answer" not in call
    assert (label["small_score"], label["large_score"]) == (0, 1)
    assert (label["label"], label["same"]) == ("match", False)
    [record] = read_records([service.directory]).items
    assert (record.text, record.fast, record.strong) == ("Hi", 0, 1)
    assert record.pair == ("demo-fast", "demo-strong")


@pytest.mark.parametrize("endpoint", sorted(GENERATION_ENDPOINTS))
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_every_endpoint_streamed_and_whole(
    service: Service, endpoint: Endpoint, stream: bool
) -> None:
    """The client's bytes are what they were; the other tier is asked for a whole answer."""
    service.configure(store_answers=True)
    service.fast.say = lambda body: "The answer is 42."
    response = await service.client.post(
        endpoint, json={**BODIES[endpoint], "stream": stream, "temperature": 0}, headers=YES
    )
    assert response.status_code == 200
    assert b"42." in response.content
    await until(lambda: service.feedback.tally.fates[Fate.LABELLED_MATCH])
    [asked] = service.strong.bodies()
    assert (asked["model"], asked["stream"], asked["temperature"]) == ("demo-strong", False, 0)
    assert "stream_options" not in asked
    call, label = await service.lines()
    assert (call["answer"], label["other_answer"]) == ("The answer is 42.", "42")
    assert label["same"] is True


@pytest.mark.parametrize(
    ("consent", "headers", "kept"),
    [
        ("asked", YES, True),
        ("asked", NO, False),
        ("asked", {"x-other": "x"}, False),
        ("asked", {"x-feedback-consent": " Yes "}, True),
        ("assumed", YES, True),
        ("assumed", NO, False),
        ("assumed", {"x-other": "x"}, True),
    ],
)
async def test_consent(service: Service, consent: str, headers: dict[str, str], kept: bool) -> None:
    """By default only calls that say yes; where it is assumed, all but those that say no."""
    service.configure(consent=consent)
    assert (await service.chat(headers)).status_code == 200
    assert await service.kinds() == ["call"] * kept


async def test_another_word_is_no_consent(service: Service) -> None:
    """A typing error must not be taken for either, so it is an error."""
    response = await service.chat({"x-feedback-consent": "true"})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "x-feedback-consent"
    assert "yes or no" in response.json()["error"]["message"]
    assert not service.fast.requests


@pytest.mark.parametrize(
    "body",
    [
        {"model": "fast"},
        {"tools": [{"type": "function"}]},
        {"n": 2},
        {"messages": [{"role": "user", "content": ""}]},
    ],
    ids=["named", "tools", "choices", "empty"],
)
async def test_calls_that_cannot_be_compared_are_not_kept(service: Service, body: Any) -> None:
    """They are answered as ever."""
    assert (await service.chat(**body)).status_code == 200
    assert await service.kinds() == []


async def test_failed_calls_are_not_kept(service: Service) -> None:
    """Neither what the engine refused nor what broke off."""
    service.fast.status = 400
    assert (await service.chat()).status_code == 400
    service.fast.errors = [DeadlineExceeded("total", 1)]
    assert (await service.chat()).status_code == 504
    assert await service.kinds() == []


async def test_only_a_share_is_kept(service: Service) -> None:
    """By the request id, so it is known beforehand which."""
    service.configure(sample_ratio=0.5)
    for number in range(40):
        await service.chat({**YES, "x-request-id": f"id-{number}"})
    kept = len(await service.lines())
    assert 8 < kept < 32
    service.configure(sample_ratio=0)
    await service.chat()
    assert len(await service.lines()) == kept


async def test_switched_off_nothing_is_kept(service: Service) -> None:
    """That is the default; nor is there a directory."""
    service.feedback.configure(RuntimeConfig())
    assert (await service.chat()).status_code == 200
    response = await service.report(request_id="a", right=True)
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "feedback_off"
    await service.feedback.close()
    assert not service.directory.exists()


async def test_texts_are_redacted_before_they_are_written(service: Service) -> None:
    """Prompts, answers and comments; the other tier is asked the question as it was."""
    service.configure(store_answers=True, redact=["email", r"K-\d+"])
    service.fast.say = lambda body: "Write to bob@example.com."
    service.strong.say = lambda body: "eve@example.com"
    text = "What is the address of ann@example.com, order K-12?"
    answered = await service.chat(messages=[{"role": "user", "content": text}])
    await until(lambda: service.feedback.tally.fates[Fate.LABELLED_MATCH])
    said = await service.report(
        request_id=answered.headers["x-request-id"], right=False, comment="ask joe@example.com"
    )
    assert said.json()["comment"] == "ask [email]"
    assert service.strong.bodies()[0]["messages"] == [{"role": "user", "content": text}]
    lines = await service.lines()
    assert "example" not in json.dumps(lines)
    by_kind = {line["kind"]: line for line in lines}
    question = "What is the address of [email], order [redacted]?"
    assert by_kind["call"]["messages"][0]["content"] == question
    assert by_kind["call"]["answer"] == "Write to [email]."
    assert by_kind["label"]["other_answer"] == "[email]"
    assert by_kind["feedback"]["comment"] == "ask [email]"


async def test_what_cannot_be_redacted_is_not_written(service: Service) -> None:
    """A call is dropped; of feedback the comment is left out."""
    service.configure(redact=[SLOW])
    slow = "a" * 5000
    await service.chat(messages=[{"role": "user", "content": slow}])
    said = await service.report(request_id="x", right=True, comment=slow[:2000])
    assert said.status_code == 202
    assert said.json()["comment"] is None
    [line] = await service.lines()
    assert line["kind"] == "feedback"
    assert service.feedback.tally.fates[Fate.NOT_REDACTED] == 2


async def test_long_texts_are_not_kept(service: Service) -> None:
    """Neither long prompts nor long answers; the client gets them."""
    service.configure(text_chars_max=100)
    await service.chat(messages=[{"role": "user", "content": "x" * 101}])
    service.fast.say = lambda body: "x" * 101
    assert len((await service.chat()).content) > 101
    service.fast.say = lambda body: "x" * 100_000
    assert len((await service.chat()).content) > 100_000
    assert await service.kinds() == []
    assert service.feedback.tally.fates == {Fate.TOO_LONG: 3}


async def test_no_more_wait_for_a_label_than_may(service: Service) -> None:
    """What comes beyond it is not kept."""
    service.configure(pending_max=2)
    for _ in range(4):
        await service.chat()
    assert await service.kinds() == ["call", "call"]
    assert service.feedback.tally.fates[Fate.QUEUE_FULL] == 2


async def test_a_users_call_comes_first(service: Service) -> None:
    """It stops the label call that runs, and is answered."""
    service.strong.silent = True
    await service.chat()
    await until(lambda: service.strong.open_exchanges)
    service.strong.silent = False
    answered = await service.chat(model="strong")
    assert answered.status_code == 200
    await until(lambda: service.feedback.tally.fates[Fate.YIELDED])
    assert service.feedback.labeller is not None
    assert service.feedback.labeller.pending == 1


async def test_a_waiting_sample_survives_its_router(service: Service) -> None:
    """Another Router asks the question with redacted texts; only those have been on the disk."""
    service.configure(redact=["email"])
    service.fast.say = lambda body: "Ask ann@example.com."
    service.strong.say = lambda body: "Ask [email]."
    assert service.feedback.labeller is not None
    service.feedback.labeller.call_began()  # It is never idle, so the sample waits.
    answered = await service.chat(
        messages=[{"role": "user", "content": "Where is bob@example.com?"}], user="eve@example.com"
    )
    await until(lambda: not service.feedback._tasks)
    await service.feedback.close()
    [waiting] = (service.directory / "waiting_r1").iterdir()
    assert b"example" not in waiting.read_bytes()
    tiers = {"fast": service.fast, "strong": service.strong}
    other = FeedbackCollector(
        TIERS, tiers, service.pipeline.runtime, "r2", flush_s=0.05, quiet_s=0.0
    )
    other.start()
    await until(lambda: other.tally.fates[Fate.LABELLED_MATCH])
    await other.close()
    assert other.tally.fates[Fate.ADOPTED] == 1
    [asked] = service.strong.bodies()
    assert asked["messages"] == [{"role": "user", "content": "Where is [email]?"}]
    assert (asked["model"], asked["user"]) == ("demo-strong", "[email]")
    call, label = await service.lines()
    assert call["request_id"] == label["request_id"] == answered.headers["x-request-id"]
    assert label["same"] is True
    assert not list(service.directory.glob("waiting_*"))


async def test_no_sample_stays_where_feedback_is_switched_off(service: Service) -> None:
    """The files go with the samples."""
    await service.chat()
    await until(lambda: list(service.directory.glob("waiting_r1/*.json")))
    service.feedback.configure(RuntimeConfig())
    assert not list(service.directory.glob("waiting_*"))


async def test_an_unwritable_directory_is_told_once(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    """Feedback is rejected, calls go on; when it can be written again, so does the log."""
    service.directory.touch()
    with caplog.at_level(logging.ERROR, "ray.serve"):
        for _ in range(2):
            rejected = await service.report(request_id="a", right=True)
            assert rejected.status_code == 503
            assert rejected.json()["error"]["code"] == "feedback_unavailable"
    [message] = [record.getMessage() for record in caplog.records]
    assert f"feedback.directory {service.directory} cannot be written (" in message
    assert service.feedback.tally.fates == {Fate.UNWRITTEN: 2}
    service.directory.unlink()
    assert (await service.chat()).status_code == 200
    assert await service.kinds() == ["call"]


async def test_feedback_is_kept(service: Service) -> None:
    """On any id: another Router may have had the call, or it was not sampled."""
    response = await service.report(request_id="a:1", right=False, comment="wrong sum")
    assert response.status_code == 202
    kept = {"object": "feedback", "request_id": "a:1", "right": False, "comment": "wrong sum"}
    assert response.json() == kept
    assert (await service.report(request_id="b", right=True)).status_code == 202
    first, second = await service.lines()
    assert (first["request_id"], first["right"], first["comment"]) == ("a:1", False, "wrong sum")
    assert (second["kind"], second["right"]) == ("feedback", True)
    assert "comment" not in second
    assert service.feedback.tally.verdicts == {True: 1, False: 1}


async def test_feedback_overrules_a_label(service: Service) -> None:
    """What the application says of the fast tier's answer counts more than the comparison."""
    service.strong.say = lambda body: "41"
    answered = await service.chat()
    await until(lambda: service.feedback.tally.fates[Fate.LABELLED_MATCH])
    await service.report(request_id=answered.headers["x-request-id"], right=True)
    await service.lines()
    [record] = read_records([service.directory]).items
    assert (record.fast, record.strong) == (1, 1)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"right": True}, "request_id"),
        ({"request_id": "a b", "right": True}, "request_id"),
        ({"request_id": 1, "right": True}, "request_id"),
        ({"request_id": "é", "right": True}, "request_id"),
        ({"request_id": "a"}, "right"),
        ({"request_id": "a", "right": 1}, "right"),
        ({"request_id": "a", "right": True, "comment": 1}, "comment"),
        ({"request_id": "a", "right": True, "comment": "x" * 2001}, "comment"),
        ({"request_id": "a", "right": True, "rigth": False}, "rigth"),
    ],
)
async def test_wrong_feedback_is_named(service: Service, body: Any, param: str) -> None:
    """The field, and what belongs there."""
    response = await service.report(**body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert await service.lines() == []


async def test_feedback_that_cannot_be_read(service: Service) -> None:
    """Not JSON, too long, another media type, another method."""
    client, json_type = service.client, {"content-type": "application/json"}
    bad = await client.post("/v1/feedback", content=b"{", headers=json_type)
    long = await client.post("/v1/feedback", content=b" " * 70_000, headers=json_type)
    other = await client.post("/v1/feedback", content=b"right", headers={"content-type": "text/x"})
    get = await client.get("/v1/feedback")
    statuses = [response.status_code for response in (bad, long, other, get)]
    assert statuses == [400, 413, 415, 405]


async def test_many_calls_at_once(service: Service) -> None:
    """Every one is kept once, under its own id, and labelled when all is quiet."""
    answers = await asyncio.gather(*(service.chat() for _ in range(20)))
    ids = {answer.headers["x-request-id"] for answer in answers}
    await until(lambda: service.feedback.tally.fates[Fate.LABELLED_MATCH] == 20)
    lines = await service.lines()
    for kind in ("call", "label"):
        assert {line["request_id"] for line in lines if line["kind"] == kind} == ids
