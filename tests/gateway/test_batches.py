"""`/v1/files` and `/v1/batches` by OpenAI's client: real ledger, real worker, fake tiers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types import Batch

from serve_app.access.control import AccessControl
from serve_app.access.identity import Identity
from serve_app.batches.build import build_store
from serve_app.batches.gate import LineGate
from serve_app.batches.store import BatchStore
from serve_app.batches.worker import BatchWorker
from serve_app.config.access import AccessConfig
from serve_app.config.batches import BatchesConfig
from serve_app.config.runtime import RuntimeConfig
from serve_app.config.tiers import TierConfig
from serve_app.core.caller import Priority
from serve_app.core.deadlines import Deadlines
from serve_app.core.errors import GatewayError, TierOverloaded, UpstreamFailed
from serve_app.gateway.app import build_gateway
from serve_app.gateway.batch_calls import InProcessCalls
from serve_app.leases.client import UpstreamRequest
from serve_app.pipeline import Pipeline
from serve_app.routing.scorer import HeuristicScorer
from serve_app.steps import Steps
from tests.fakes import FakeAnswer, FakeIdentifier, FakeReadiness, FakeRecorder, FakeTier

ENGINE = {"max_model_len": 4096}
TIERS = (
    TierConfig(name="fast", model_id="demo-fast", engine=ENGINE),
    TierConfig(
        name="strong",
        model_id="demo-strong",
        engine={**ENGINE, "scheduling_policy": "priority"},
    ),
)
CHAT = "/v1/chat/completions"


class EchoTier(FakeTier):
    """A tier that answers each call with the last message of the call, once it may."""

    def __init__(self) -> None:
        super().__init__()
        self.refused = ""
        """The message that the engine rejects."""
        self.failing: list[GatewayError] = []
        """What the next calls meet."""
        self.open = asyncio.Event()
        self.open.set()

    @asynccontextmanager
    async def exchange(
        self, request: UpstreamRequest, deadlines: Deadlines
    ) -> AsyncIterator[FakeAnswer]:
        text = read_body(request)["messages"][-1]["content"]
        await self.open.wait()
        if self.failing:
            raise self.failing.pop()
        if text == self.refused:
            error = {"message": "The prompt is silly.", "type": "BadRequestError", "code": 400}
            self.answer = FakeAnswer([json.dumps({"error": error}).encode()], status=400)
            async with super().exchange(request, deadlines) as answer:
                yield answer
            return
        message = {"role": "assistant", "content": text}
        self.answer = FakeAnswer([json.dumps({"choices": [{"message": message}]}).encode()])
        async with super().exchange(request, deadlines) as answer:
            yield answer


@dataclass
class Place:
    """A gateway with batches, and its parts."""

    client: openai.AsyncOpenAI
    http: httpx.AsyncClient
    pipeline: Pipeline
    fast: EchoTier
    strong: EchoTier
    recorder: FakeRecorder
    store: BatchStore

    async def upload(self, content: bytes | list[dict[str, Any]], name: str = "in.jsonl") -> str:
        if isinstance(content, list):
            content = b"".join(json.dumps(line).encode() + b"\n" for line in content)
        return (await self.client.files.create(file=(name, content), purpose="batch")).id

    async def start(self, content: bytes | list[dict[str, Any]], **more: Any) -> Batch:
        return await self.client.batches.create(
            input_file_id=await self.upload(content),
            endpoint=CHAT,
            completion_window="24h",
            **more,
        )

    async def end(self, batch: Batch) -> Batch:
        """The batch once nothing happens to it any more."""
        async with asyncio.timeout(20):
            while batch.status not in ("completed", "failed", "expired", "cancelled"):
                await asyncio.sleep(0.02)
                batch = await self.client.batches.retrieve(batch.id)
        return batch

    async def lines(self, file_id: str | None) -> list[dict[str, Any]]:
        assert file_id is not None
        content = await self.client.files.content(file_id)
        return [json.loads(line) for line in content.text.splitlines()]


def read_body(request: UpstreamRequest) -> dict[str, Any]:
    """The body that an engine gets."""
    found: dict[str, Any] = json.loads(request._body)
    return found


def line(number: int, **body: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"Hello {number}"}]
    body = {"model": "auto", "messages": messages, **body}
    return {"custom_id": f"c{number}", "method": "POST", "url": CHAT, "body": body}


@asynccontextmanager
async def open_place(
    tmp_path: Path, access: AccessControl | None = None, key: str = "none", **keys: Any
) -> AsyncIterator[Place]:
    config = BatchesConfig(directory=str(tmp_path / "batches"), **keys)
    store = build_store(config)
    fast, strong, recorder = EchoTier(), EchoTier(), FakeRecorder()
    runtime = RuntimeConfig(batches=config)
    steps = Steps(access=access, batches=store)
    fakes = {"fast": fast, "strong": strong}
    pipeline = Pipeline(TIERS, fakes, HeuristicScorer(), runtime, None, steps)
    app = build_gateway(TIERS, pipeline, recorder, FakeReadiness())
    worker = BatchWorker(
        "r1", lambda: store, InProcessCalls(app, pipeline), LineGate(lambda: False)
    )
    worker.start()
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test/v1") as http:
        client = openai.AsyncOpenAI(
            api_key=key, base_url="http://test/v1", http_client=http, max_retries=0
        )
        yield Place(client, http, pipeline, fast, strong, recorder, store)
    await worker.close()
    await store.close()


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with open_place(tmp_path) as opened:
        yield opened


async def test_a_batch_from_upload_to_results(place: Place) -> None:
    """The lines are routed like calls, and the results stand in a file in the lines' order."""
    batch = await place.start([line(n) for n in range(1, 41)], metadata={"job": "night"})
    assert batch.status == "validating"
    batch = await place.end(batch)
    assert (batch.status, batch.error_file_id, batch.errors) == ("completed", None, None)
    assert batch.request_counts is not None
    assert batch.request_counts.to_dict() == {"total": 40, "completed": 40, "failed": 0}
    assert batch.metadata == {"job": "night"}
    lines = await place.lines(batch.output_file_id)
    assert [found["custom_id"] for found in lines] == [f"c{n}" for n in range(1, 41)]
    response = lines[0]["response"]
    assert response["status_code"] == 200
    assert response["body"]["choices"][0]["message"]["content"] == "Hello 1"
    assert response["headers"]["x-route-tier"] == "fast"
    assert {record.caller.rights.priority for record in place.recorder.records} == {Priority.BATCH}
    assert {record.request_id for record in place.recorder.records} == {
        found["response"]["request_id"] for found in lines
    }
    listed = await place.client.batches.list(limit=1)
    assert [found.id for found in listed.data] == [batch.id]


async def test_an_engine_that_schedules_by_priority_is_told(place: Place) -> None:
    """A call of a client comes first there; other engines would reject the field."""
    await place.end(await place.start([line(1, model="fast"), line(2, model="strong")]))
    [to_fast], [to_strong] = place.fast.requests, place.strong.requests
    assert "priority" not in read_body(to_fast)
    assert read_body(to_strong)["priority"] == 100
    assert (to_strong.claim.batch, to_strong.claim.spare) == (True, True)


@pytest.mark.parametrize(("counted", "wanted"), [(False, 0), (True, 3)])
async def test_autoscaling_counts_lines_only_where_it_shall(
    tmp_path: Path, counted: bool, wanted: int
) -> None:
    """By default a line is no call that is meant for a tier, and its request says so."""
    async with open_place(tmp_path, add_replicas=counted) as place:
        await place.end(await place.start([line(n, model="fast") for n in range(3)]))
        assert place.pipeline.wanted == {"fast": wanted, "strong": 0}
        assert {request.claim.spare for request in place.fast.requests} == {not counted}


async def test_a_line_rises_in_the_engine_as_its_time_runs_out(tmp_path: Path) -> None:
    """Here within all of the batch's time, so the first step comes at once."""
    async with open_place(tmp_path, window_s=600, rising_ratio=1.0) as place:
        await place.end(await place.start([line(1, model="strong")]))
        [request] = place.strong.requests
    assert read_body(request)["priority"] == 75


async def test_refused_lines_stand_in_the_error_file(place: Place) -> None:
    """A line that an engine refuses does not fail its batch."""
    place.fast.refused = "Hello 2"
    batch = await place.end(await place.start([line(n) for n in range(1, 4)]))
    assert batch.status == "completed"
    assert batch.request_counts is not None
    assert batch.request_counts.to_dict() == {"total": 3, "completed": 2, "failed": 1}
    [refused] = await place.lines(batch.error_file_id)
    assert (refused["custom_id"], refused["error"]) == ("c2", None)
    assert refused["response"]["status_code"] == 400
    assert refused["response"]["body"]["error"]["message"]
    assert len(await place.lines(batch.output_file_id)) == 2


async def test_a_line_waits_for_a_tier_that_is_full(place: Place) -> None:
    """An overloaded or broken tier costs the line time, not its answer."""
    place.fast.failing = [TierOverloaded(0), UpstreamFailed()]
    place.strong.failing = [TierOverloaded(0), UpstreamFailed()]
    batch = await place.end(await place.start([line(1)]))
    assert (batch.status, batch.error_file_id) == ("completed", None)


BROKEN = [
    (b"{\n", ("invalid_json_line", None, 1)),
    (b"[]\n", ("invalid_json_line", None, 1)),
    ([line(1) | {"custom_id": ""}], ("invalid_value", "custom_id", 1)),
    ([line(1), line(2) | {"custom_id": "c1"}], ("duplicate_custom_id", "custom_id", 2)),
    ([{**line(1), "method": "GET"}], ("invalid_value", "method", 1)),
    ([{**line(1), "url": "/v1/completions"}], ("mismatched_endpoint", "url", 1)),
    ([{**line(1), "colour": 1}], ("unknown_parameter", "colour", 1)),
    (
        [{"custom_id": "c", "method": "POST", "url": CHAT}],
        ("missing_required_parameter", "body", 1),
    ),
    ([line(1, stream=True)], ("invalid_value", "body.stream", 1)),
    ([line(1, model="gpt-9")], ("model_not_found", "body.model", 1)),
    (
        [line(1), line(2, chat_template="x")],
        ("unsupported_parameter", "body.chat_template", 2),
    ),
    ([line(1, messages=7)], ("invalid_value", "body.messages", 1)),
    (b"\n\n", ("empty_file", None, None)),
    (b"", ("empty_file", None, None)),
]


@pytest.mark.parametrize(("content", "fault"), BROKEN, ids=[fault[0] for _, fault in BROKEN])
async def test_a_wrong_file_is_refused_as_a_whole(
    place: Place, content: Any, fault: tuple[str, str | None, int | None]
) -> None:
    """Every fault names its line and field, and no line has been answered."""
    batch = await place.end(await place.start(content))
    assert batch.status == "failed"
    assert batch.errors is not None
    [found] = batch.errors.data or []
    assert (found.code, found.param, found.line) == fault
    assert found.message
    assert not place.fast.requests
    assert not place.strong.requests


async def test_too_many_lines(tmp_path: Path) -> None:
    """The bound of lines names the first line beyond it."""
    async with open_place(tmp_path, lines_max=3) as place:
        batch = await place.end(await place.start([line(n) for n in range(1, 6)]))
        assert batch.errors is not None
        assert [(e.code, e.line) for e in batch.errors.data or []] == [("too_many_lines", 4)]


async def test_files_are_kept_listed_and_deleted(place: Place) -> None:
    """A file has its name and size; after its deletion it is gone."""
    one, two = await place.upload(b"{}\n", "one.jsonl"), await place.upload(b"1", "two.jsonl")
    file = await place.client.files.retrieve(one)
    assert (file.filename, file.bytes, file.purpose) == ("one.jsonl", 3, "batch")
    assert (await place.client.files.content(one)).content == b"{}\n"
    assert [found.id for found in (await place.client.files.list()).data] == [two, one]
    first = await place.client.files.list(limit=1, order="asc")
    assert [found.id for found in first.data] == [one]
    assert [found.id async for found in first] == [one, two]
    assert (await place.client.files.delete(one)).deleted
    with pytest.raises(openai.NotFoundError, match="No such File"):
        await place.client.files.retrieve(one)
    with pytest.raises(openai.NotFoundError):
        await place.client.files.content(one)


async def test_a_big_file_passes_in_pieces(place: Place) -> None:
    """What was sent is what comes back, beyond the size of one piece."""
    content = b"x" * 2_500_000 + b"\r\n--\r\n" + bytes(range(256))
    assert (await place.client.files.content(await place.upload(content))).content == content


async def test_a_file_that_is_too_long_is_refused(tmp_path: Path) -> None:
    """Nothing of it is kept."""
    async with open_place(tmp_path, file_bytes_max=1024) as place:
        with pytest.raises(openai.APIStatusError) as refused:
            await place.upload(b"x" * 1025)
        assert refused.value.status_code == 413
        assert not (await place.client.files.list()).data
        assert not list((tmp_path / "batches" / "files").iterdir())


async def test_a_tenant_has_only_so_many_bytes(tmp_path: Path) -> None:
    """The message says how to go on."""
    async with open_place(tmp_path, tenant_bytes_max=1024) as place:
        await place.upload(b"x" * 1024)
        with pytest.raises(openai.PermissionDeniedError, match="Delete some"):
            await place.upload(b"x")


FORM = {"content-type": "multipart/form-data; boundary=b"}
ONE_FILE = {"file": b"x"}
UPLOADS: list[tuple[dict[str, Any], int, str | None]] = [
    ({"data": {"purpose": "batch"}, "files": {"x": b""}}, 400, "x"),
    ({"data": {"purpose": "fine-tune"}, "files": ONE_FILE}, 400, "purpose"),
    ({"files": ONE_FILE}, 400, "purpose"),
    ({"data": {"purpose": "batch"}, "files": [("file", b"1"), ("file", b"2")]}, 400, "file"),
    ({"data": {"expires_after[anchor]": "x"}, "files": ONE_FILE}, 400, "expires_after[anchor]"),
    ({"json": {"purpose": "batch"}}, 415, None),
    ({"content": b"--b\r\nnonsense", "headers": FORM}, 400, None),
    ({"content": b"", "headers": FORM}, 400, None),
]


@pytest.mark.parametrize(("request_", "status", "param"), UPLOADS)
async def test_a_wrong_form_is_refused(
    place: Place, request_: dict[str, Any], status: int, param: str | None
) -> None:
    """The field is named, and nothing is kept."""
    answer = await place.http.post("/files", **request_)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["param"] == param
    assert not list((Path(place.store.config.directory) / "files").iterdir())


GOOD = {"input_file_id": "file-1", "endpoint": CHAT, "completion_window": "24h"}
BATCHES: list[tuple[dict[str, Any], int, str]] = [
    ({"endpoint": CHAT, "completion_window": "24h"}, 400, "input_file_id"),
    (GOOD, 404, "input_file_id"),
    ({**GOOD, "endpoint": "/v1/messages"}, 400, "endpoint"),
    ({**GOOD, "completion_window": "1h"}, 400, "completion_window"),
    ({**GOOD, "metadata": 1}, 400, "metadata"),
    ({**GOOD, "colour": 1}, 400, "colour"),
]


@pytest.mark.parametrize(("body", "status", "param"), BATCHES)
async def test_a_wrong_batch_is_refused(
    place: Place, body: dict[str, Any], status: int, param: str
) -> None:
    """The field is named."""
    answer = await place.http.post("/batches", json=body)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["param"] == param


async def test_a_cancelled_batch_keeps_what_is_done(tmp_path: Path) -> None:
    """The other lines are in the error file; cancelling an ended batch is an error."""
    async with open_place(tmp_path, shard_lines=4, lease_s=0.3) as place:
        batch = await place.start([line(n) for n in range(1, 9)])
        place.fast.open.clear()
        place.strong.open.clear()
        async with asyncio.timeout(20):
            while not place.recorder.records and batch.status == "validating":
                await asyncio.sleep(0.02)
                batch = await place.client.batches.retrieve(batch.id)
        batch = await place.client.batches.cancel(batch.id)
        assert batch.status == "cancelling"
        batch = await place.end(batch)
        assert batch.status == "cancelled"
        undone = await place.lines(batch.error_file_id)
        assert [found["custom_id"] for found in undone] == [f"c{n}" for n in range(1, 9)]
        assert {found["error"]["code"] for found in undone} == {"batch_cancelled"}
        place.fast.open.set()
        place.strong.open.set()
        assert (await place.client.batches.cancel(batch.id)).status == "cancelled"
        done = await place.end(await place.start([line(1)]))
        with pytest.raises(openai.ConflictError, match="completed"):
            await place.client.batches.cancel(done.id)


def build_access() -> AccessControl:
    """Keys whose names are their tenants; `chat` may only chat."""
    roles = {"user": {}, "chat": {"endpoints": [CHAT], "output_tokens_max": 5}}
    config = AccessConfig.model_validate({"roles": roles, "anonymous": {"roles": ["user"]}})
    config = config.model_copy(update={"anonymous": None})
    identities = {
        "ann": Identity("acme", key_id="k1", roles=("user",)),
        "bob": Identity("other", key_id="k2", roles=("user",)),
        "eve": Identity("acme", key_id="k3", roles=("chat",)),
    }
    return AccessControl(config, TIERS, FakeIdentifier(identities))


async def test_a_tenant_sees_only_its_own(tmp_path: Path) -> None:
    """Another tenant learns not even that a file or batch exists."""
    async with open_place(tmp_path, build_access(), key="ann") as place:
        batch = await place.end(await place.start([line(1)]))
        bob = place.client.with_options(api_key="bob")
        for ask in (
            lambda: bob.files.retrieve(batch.input_file_id),
            lambda: bob.files.content(batch.input_file_id),
            lambda: bob.files.delete(batch.input_file_id),
            lambda: bob.batches.retrieve(batch.id),
            lambda: bob.batches.cancel(batch.id),
        ):
            with pytest.raises(openai.NotFoundError):
                await ask()
        assert not (await bob.files.list()).data
        assert not (await bob.batches.list()).data
        with pytest.raises(openai.NotFoundError, match="No such File"):
            await bob.batches.create(
                input_file_id=batch.input_file_id, endpoint=CHAT, completion_window="24h"
            )
        [record] = [one for one in place.recorder.records if one.request_id.startswith("batch_")]
        assert (record.caller.tenant, record.caller.key_id) == ("acme", "k1")


async def test_a_line_may_do_what_its_owner_may(tmp_path: Path) -> None:
    """Endpoints and bounds of the owner's roles hold for each line."""
    async with open_place(tmp_path, build_access(), key="eve") as place:
        file_id = await place.upload([line(1)])
        with pytest.raises(openai.PermissionDeniedError):
            await place.client.batches.create(
                input_file_id=file_id, endpoint="/v1/completions", completion_window="24h"
            )
        batch = await place.end(await place.start([line(1, max_tokens=6)]))
        assert batch.errors is not None
        [fault] = batch.errors.data or []
        assert (fault.param, fault.line) == ("body.max_tokens", 1)


async def test_without_batches_the_answer_says_so(tmp_path: Path) -> None:
    """The operator's key is named."""
    async with open_place(tmp_path) as place:
        place.pipeline.steps = Steps()
        with pytest.raises(openai.NotFoundError, match=r"batches\.directory"):
            await place.client.files.list()
