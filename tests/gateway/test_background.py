"""`background: true` of the Responses API, by OpenAI's client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.responses import Response

from serve_app.batches.sender import NoticeSender
from serve_app.core.deadlines import Deadlines
from serve_app.leases.client import UpstreamRequest
from serve_app.steps import Steps
from tests.batches.receiver import SECRET, VARIABLE, open_receiver
from tests.fakes import FakeAnswer, FakeTier
from tests.gateway.test_batches import Place, build_access, open_place, read_body


class RespondingTier(FakeTier):
    """Answers a response with its input, once it may."""

    def __init__(self) -> None:
        super().__init__()
        self.open = asyncio.Event()
        self.open.set()
        self.status = "completed"
        """How the engine's responses end; "refused": with an error."""

    @asynccontextmanager
    async def exchange(
        self, request: UpstreamRequest, deadlines: Deadlines
    ) -> AsyncIterator[FakeAnswer]:
        await self.open.wait()
        text = {"type": "output_text", "text": read_body(request)["input"], "annotations": []}
        output = [{"type": "message", "role": "assistant", "id": "m", "content": [text]}]
        body = {"id": "resp_engine", "object": "response", "status": self.status, "output": output}
        refused = {"error": {"message": "No.", "type": "BadRequestError", "code": 400}}
        wrong = self.status == "refused"
        answer_body = json.dumps(refused if wrong else body).encode()
        self.answer = FakeAnswer([answer_body], status=400 if wrong else 200)
        async with super().exchange(request, deadlines) as answer:
            yield answer


@asynccontextmanager
async def open_responding(
    tmp_path: Path, access: bool = False, **keys: Any
) -> AsyncIterator[tuple[Place, RespondingTier]]:
    """A place whose tiers answer responses."""
    control = build_access() if access else None
    async with open_place(tmp_path, control, key="ann", **keys) as place:
        tier = RespondingTier()
        place.pipeline._tiers = {"fast": tier, "strong": tier}
        yield place, tier


async def end(place: Place, response: Response) -> Response:
    async with asyncio.timeout(20):
        while response.status in ("queued", "in_progress"):
            await asyncio.sleep(0.02)
            response = await place.client.responses.retrieve(response.id)
    return response


async def test_a_response_is_fetched_later(tmp_path: Path) -> None:
    """The call returns at once, and the answer is found under its id; it is no batch or file."""
    async with open_responding(tmp_path) as (place, tier):
        tier.open.clear()
        response = await place.client.responses.create(input="Hello", background=True)
        assert (response.status, response.background) == ("queued", True)
        tier.open.set()
        ended = await end(place, response)
        assert (ended.id, ended.status, ended.output_text) == (response.id, "completed", "Hello")
        assert not (await place.client.batches.list()).data
        assert not (await place.client.files.list()).data
        with pytest.raises(openai.NotFoundError):
            await place.client.batches.retrieve(response.id)


async def test_a_response_is_cancelled(tmp_path: Path) -> None:
    """Nothing comes of it any more; cancelling again changes nothing."""
    async with open_responding(tmp_path) as (place, tier):
        tier.open.clear()
        response = await place.client.responses.create(input="Hello", background=True)
        for _ in range(2):
            cancelled = await place.client.responses.cancel(response.id)
            assert cancelled.status == "cancelled"
        tier.open.set()
        assert (await end(place, cancelled)).status == "cancelled"


@pytest.mark.parametrize(
    ("more", "param"),
    [({"stream": True}, "stream"), ({"store": False}, "store"), ({"model": "gpt-9"}, "model")],
)
async def test_a_wrong_call_is_refused_at_once(
    tmp_path: Path, more: dict[str, object], param: str
) -> None:
    """As without `background`."""
    async with open_responding(tmp_path) as (place, _):
        body = {"input": "Hello", "background": True, **more}
        answer = await place.http.post("/responses", json=body)
        assert answer.json()["error"]["param"] == param


async def test_a_response_belongs_to_its_tenant(tmp_path: Path) -> None:
    """Other tenants get 404."""
    async with open_responding(tmp_path, access=True) as (place, _):
        response = await place.client.responses.create(input="Hello", background=True)
        bob = place.client.with_options(api_key="bob")
        for ask in (
            bob.responses.retrieve,
            bob.responses.cancel,
            bob.responses.delete,
            bob.responses.input_items.list,
        ):
            with pytest.raises(openai.NotFoundError):
                await ask(response.id)
        assert (await end(place, response)).output_text == "Hello"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("completed", "response.completed"),
        ("incomplete", "response.incomplete"),
        ("failed", "response.failed"),
        ("refused", "response.failed"),
        ("cancelled", "response.cancelled"),
    ],
)
async def test_a_receiver_is_told_how_a_response_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: str, kind: str
) -> None:
    """OpenAI's client gets the event, and finds the response by its id."""
    monkeypatch.setenv(VARIABLE, SECRET)
    async with (
        open_receiver() as receiver,
        open_responding(tmp_path, webhooks=[receiver.hook()]) as (place, tier),
    ):
        sender = NoticeSender(lambda: place.store, lambda *_: None, poll_s=0.02)
        sender.start()
        tier.status = status
        if status == "cancelled":
            tier.open.clear()
        response = await place.client.responses.create(input="Hello", background=True)
        if status == "cancelled":
            await place.client.responses.cancel(response.id)
        await receiver.has(1)
        await sender.close()
        event = receiver.requests[0].unwrap()
        assert (event.type, event.data.id) == (kind, response.id)
        found = await place.client.responses.retrieve(event.data.id)
        assert f"response.{found.status}" == kind


async def test_the_input_of_a_response_is_listed(tmp_path: Path) -> None:
    """As items with ids, the newest first, a page after another."""
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": [{"type": "input_text", "text": "Hello"}]},
        {"type": "function_call_output", "call_id": "c1", "output": "9"},
    ]
    async with open_responding(tmp_path) as (place, _):
        response = await place.client.responses.create(input=turns, background=True)  # type: ignore[arg-type]  # roles as plain dicts
        listing = place.client.responses.input_items.list
        items = [item.to_dict() async for item in listing(response.id, limit=3)]
        assert [item["type"] for item in items] == ["function_call_output", *["message"] * 3]
        texts = [item["content"][0] for item in reversed(items[1:])]  # type: ignore[index]  # a list
        assert [(text["type"], text["text"]) for text in texts] == [
            ("input_text", "Be brief."),
            ("output_text", "Yes?"),
            ("input_text", "Hello"),
        ]
        ids = [item["id"] for item in items]
        assert len(set(ids)) == 4
        page = await listing(response.id, order="asc", after=str(ids[-1]), limit=1)
        assert [item.id for item in page.data] == [ids[2]]
        assert page.has_more


async def test_a_plain_input_is_one_item(tmp_path: Path) -> None:
    """A text is a message of the user."""
    async with open_responding(tmp_path) as (place, _):
        response = await place.client.responses.create(input="Hello", background=True)
        [item] = (await place.client.responses.input_items.list(response.id)).data
        name = response.id.removeprefix("resp_")
        assert item.to_dict() == {
            "id": f"msg_{name}_0",
            "type": "message",
            "status": "completed",
            "role": "user",
            "content": [{"type": "input_text", "text": "Hello"}],
        }


@pytest.mark.parametrize(
    ("query", "param"), [("limit=0", "limit"), ("order=up", "order"), ("after=msg_x", "after")]
)
async def test_a_wrong_question_for_items_names_its_field(
    tmp_path: Path, query: str, param: str
) -> None:
    """With 400."""
    async with open_responding(tmp_path) as (place, _):
        response = await place.client.responses.create(input="Hello", background=True)
        answer = await place.http.get(f"/responses/{response.id}/input_items?{query}")
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize("ended", [True, False])
async def test_a_response_is_deleted(tmp_path: Path, ended: bool) -> None:
    """With its input and its answer; a call that has not ended is stopped, and tells no one."""
    async with open_responding(tmp_path) as (place, tier):
        if not ended:
            tier.open.clear()
        response = await place.client.responses.create(input="Hello", background=True)
        if ended:
            await end(place, response)
        answer = await place.http.delete(f"/responses/{response.id}")
        assert answer.json() == {"id": response.id, "object": "response", "deleted": True}
        tier.open.set()
        for ask in (
            place.client.responses.retrieve,
            place.client.responses.cancel,
            place.client.responses.delete,
            place.client.responses.input_items.list,
        ):
            with pytest.raises(openai.NotFoundError):
                await ask(response.id)
        assert not place.store.files.list_old(1e12)


async def test_without_batches_the_field_is_refused(tmp_path: Path) -> None:
    """As before: nothing is stored."""
    async with open_responding(tmp_path) as (place, _):
        place.pipeline.steps = Steps()
        with pytest.raises(openai.BadRequestError) as refused:
            await place.client.responses.create(input="Hello", background=True)
        assert refused.value.param == "background"
