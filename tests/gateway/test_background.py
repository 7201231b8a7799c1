"""`background: true` of the Responses API, by OpenAI's client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import openai
import pytest
from openai.types.responses import Response

from serve_app.core.deadlines import Deadlines
from serve_app.leases.client import UpstreamRequest
from serve_app.steps import Steps
from tests.fakes import FakeAnswer, FakeTier
from tests.gateway.test_batches import Place, build_access, open_place, read_body


class RespondingTier(FakeTier):
    """Answers a response with its input, once it may."""

    def __init__(self) -> None:
        super().__init__()
        self.open = asyncio.Event()
        self.open.set()

    @asynccontextmanager
    async def exchange(
        self, request: UpstreamRequest, deadlines: Deadlines
    ) -> AsyncIterator[FakeAnswer]:
        await self.open.wait()
        text = {"type": "output_text", "text": read_body(request)["input"], "annotations": []}
        output = [{"type": "message", "role": "assistant", "id": "m", "content": [text]}]
        body = {"id": "resp_engine", "object": "response", "status": "completed", "output": output}
        self.answer = FakeAnswer([json.dumps(body).encode()])
        async with super().exchange(request, deadlines) as answer:
            yield answer


@asynccontextmanager
async def open_responding(
    tmp_path: Path, access: bool = False
) -> AsyncIterator[tuple[Place, RespondingTier]]:
    """A place whose tiers answer responses."""
    control = build_access() if access else None
    async with open_place(tmp_path, control, key="ann") as place:
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
        for ask in (bob.responses.retrieve, bob.responses.cancel):
            with pytest.raises(openai.NotFoundError):
                await ask(response.id)
        assert (await end(place, response)).output_text == "Hello"


async def test_without_batches_the_field_is_refused(tmp_path: Path) -> None:
    """As before: nothing is stored."""
    async with open_responding(tmp_path) as (place, _):
        place.pipeline.steps = Steps()
        with pytest.raises(openai.BadRequestError) as refused:
            await place.client.responses.create(input="Hello", background=True)
        assert refused.value.param == "background"
