"""`background: true` of the Responses API: a batch of one call, fetched by its id anywhere."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from serve_app.batches.batch import BACKGROUND_PREFIX, Batch, BatchOwner, BatchStatus
from serve_app.batches.lines import METHOD
from serve_app.batches.store import BatchStore
from serve_app.core.call import AUTO, Endpoint
from serve_app.core.caller import Caller
from serve_app.core.errors import InvalidField, NothingStored, ResponseNotFound
from serve_app.gateway.batch_calls import check_line
from serve_app.gateway.batch_pages import (
    find_store,
    read_limit,
    read_newest,
    render_list,
    translate_failures,
)
from serve_app.gateway.guard import Guard, read_caller
from serve_app.gateway.input_items import choose_page, render_items
from serve_app.gateway.wire import parse_json
from serve_app.pipeline import Pipeline

T = TypeVar("T")

FIELD = "background"
ITEMS_MAX, ITEMS_SHOWN = 100, 20
WINDOW_S = 3600.0
"""A response that has not been begun by then fails; so it comes before lines of the own batches."""
STATUSES: Mapping[BatchStatus, str] = {
    BatchStatus.VALIDATING: "queued",
    BatchStatus.IN_PROGRESS: "in_progress",
    BatchStatus.FINALIZING: "in_progress",
    BatchStatus.CANCELLING: "cancelled",
    BatchStatus.CANCELLED: "cancelled",
}
FAILED = {"code": "server_error", "message": "The response could not be made."}


class BackgroundResponses:
    """Takes calls that need not be answered at once, and shows what became of them."""

    def __init__(self, pipeline: Pipeline, clock: Callable[[], float] = time.time) -> None:
        self._pipeline = pipeline
        self._clock = clock

    def takes(self, body: bytes) -> bool:
        """Whether the body asks for it, where the config keeps batches."""
        asks = f'"{FIELD}"'.encode() in body and find_store(self._pipeline) is not None
        return asks and parse_json(body).get(FIELD) is True

    async def begin(self, caller: Caller, body: bytes) -> bytes:
        """Keep the call; returns the response that is queued.

        Raises:
            GatewayError: the call is wrong, or cannot be kept.
        """
        store = self._store(NothingStored(FIELD, "unsupported_parameter"))
        document = parse_json(body)
        if document.get("stream"):
            raise InvalidField("stream", "false, because a background response is fetched later")
        if document.get("store") is False:
            raise InvalidField("store", "true, because a background response is kept")
        document = {name: value for name, value in document.items() if name != FIELD}
        check_line(self._pipeline, caller, Endpoint.RESPONSES, orjson.dumps(document))
        batch = self._make_batch(caller, document)
        await self._keep(store, batch, document)
        store.more.set()
        return orjson.dumps(render_unfinished(batch))

    def _make_batch(self, caller: Caller, document: Mapping[str, Any]) -> Batch:
        now, name = self._clock(), uuid.uuid4().hex
        return Batch(
            batch_id=f"{BACKGROUND_PREFIX}{name}",
            owner=BatchOwner(
                caller.tenant, caller.key_id, caller.user, caller.roles, caller.address
            ),
            endpoint=Endpoint.RESPONSES.value,
            input_file_id=f"file-{name}",
            created_at=now,
            expires_at=now + WINDOW_S,
            metadata={"model": str(document.get("model") or AUTO)},
        )

    async def _keep(self, store: BatchStore, batch: Batch, document: Mapping[str, Any]) -> None:
        line = {
            "custom_id": batch.batch_id,
            "method": METHOD,
            "url": batch.endpoint,
            "body": document,
        }
        with translate_failures():
            async with store.create(batch.input_file_id, "background") as sink:
                await store.run(sink.write, orjson.dumps(line))
            await store.run(store.ledger.add_batch, batch)

    async def show(self, request: Request) -> Response:
        """`GET /v1/responses/{response_id}`."""
        store, batch = await self._find(request)
        return await self._render(store, batch)

    async def cancel(self, request: Request) -> Response:
        """`POST /v1/responses/{response_id}/cancel`."""
        store, batch = await self._find(request)
        tenant = batch.owner.tenant
        cancelled = await self._run(
            store, store.ledger.cancel, tenant, batch.batch_id, self._clock()
        )
        if cancelled is None:
            raise ResponseNotFound(batch.batch_id)
        store.more.set()
        return await self._render(store, cancelled)

    async def delete(self, request: Request) -> Response:
        """`DELETE /v1/responses/{response_id}`. A call that has not ended is stopped."""
        store, batch = await self._find(request)
        gone = await self._run(store, store.ledger.delete_batch, batch.owner.tenant, batch.batch_id)
        for file_id in gone:
            await self._run(store, store.files.delete, file_id)
        return _json({"id": batch.batch_id, "object": "response", "deleted": True})

    async def list_input(self, request: Request) -> Response:
        """`GET /v1/responses/{response_id}/input_items`."""
        store, batch = await self._find(request)
        limit, newest = read_limit(request, ITEMS_SHOWN, ITEMS_MAX), read_newest(request)
        line = orjson.loads(await self._run(store, store.files.read, batch.input_file_id))
        items = render_items(batch.batch_id, line["body"].get("input"))
        after = request.query_params.get("after")
        page = choose_page(items, after=after, limit=limit, newest=newest)
        return _json(render_list(page, limit))

    async def _find(self, request: Request) -> tuple[BatchStore, Batch]:
        """The response of the path, of the caller's tenant."""
        response_id = request.path_params["response_id"]
        store = self._store(ResponseNotFound(response_id))
        batch = None
        if response_id.startswith(BACKGROUND_PREFIX):
            tenant = read_caller(request).tenant
            batch = await self._run(store, store.ledger.find_batch, tenant, response_id)
        if batch is None:
            raise ResponseNotFound(response_id)
        return store, batch

    async def _render(self, store: BatchStore, batch: Batch) -> Response:
        document = render_unfinished(batch)
        if batch.status is BatchStatus.COMPLETED:
            file_id = batch.output_file_id or batch.error_file_id
            line = orjson.loads(await self._run(store, store.files.read, file_id))
            document = render_finished(document, line["response"]["body"])
        return _json(document)

    def _store(self, otherwise: Exception) -> BatchStore:
        store = find_store(self._pipeline)
        if store is None:
            raise otherwise
        return store

    @staticmethod
    async def _run(store: BatchStore, work: Callable[..., T], *args: Any) -> T:
        with translate_failures():
            return await store.run(work, *args)

    def routes(self, guard: Guard) -> list[Route]:
        """The pages of background responses."""
        path = "/v1/responses/{response_id}"
        return [
            guard.page(path, self._show_or_delete, ["GET", "DELETE"]),
            guard.page(f"{path}/cancel", self.cancel, ["POST"]),
            guard.page(f"{path}/input_items", self.list_input, ["GET"]),
        ]

    async def _show_or_delete(self, request: Request) -> Response:
        return await (self.delete if request.method == "DELETE" else self.show)(request)


def _json(document: Mapping[str, Any]) -> Response:
    return Response(orjson.dumps(document), media_type="application/json")


def render_unfinished(batch: Batch) -> dict[str, Any]:
    """A response without output, as OpenAI's clients know it."""
    status = STATUSES.get(batch.status, "failed")
    return {
        "id": batch.batch_id,
        "object": "response",
        "created_at": int(batch.created_at),
        "status": status,
        "background": True,
        "error": FAILED if status == "failed" else None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "model": (batch.metadata or {}).get("model", AUTO),
        "output": [],
        "parallel_tool_calls": True,
        "temperature": None,
        "tool_choice": "auto",
        "tools": [],
        "top_p": None,
    }


def render_finished(document: Mapping[str, Any], body: Mapping[str, Any]) -> dict[str, Any]:
    """The engine's response under the id by which it is fetched, or its error."""
    if "error" in body and "output" not in body:
        message = body["error"].get("message", FAILED["message"])
        return {**document, "status": "failed", "error": {**FAILED, "message": message}}
    return {**body, "id": document["id"], "background": True}
