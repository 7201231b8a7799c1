"""`/v1/files` and `/v1/batches`, as OpenAI's clients know them."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import orjson
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from serve_app.batches.batch import BATCH_PREFIX, Batch, BatchOwner, BatchStatus, StoredFile
from serve_app.batches.file_store import FileStoreUnavailable
from serve_app.batches.ledger import LedgerUnavailable
from serve_app.batches.store import BatchStore
from serve_app.config.batches import BatchesConfig
from serve_app.config.tiers import DAY_S
from serve_app.core.call import Endpoint
from serve_app.core.errors import (
    BatchEnded,
    BatchesOff,
    FileInUse,
    InvalidField,
    NoSuchBatch,
    NoSuchFile,
    RefusedField,
    StorageFailing,
    StorageUsedUp,
    UnknownField,
)
from serve_app.gateway.batch_calls import BATCH_ENDPOINTS
from serve_app.gateway.feedback import BODY_BYTES_MAX, read_page_body
from serve_app.gateway.guard import Guard, Page, check_endpoint, read_caller
from serve_app.gateway.held_bodies import BodyPlace, HeldBodies
from serve_app.gateway.request_headers import RequestHeaders
from serve_app.gateway.wire import parse_json
from serve_app.pipeline import Pipeline

logger = logging.getLogger("ray.serve")

T = TypeVar("T")

WINDOW = "24h"
KEYS = ("input_file_id", "endpoint", "completion_window", "metadata")
METADATA_MAX, METADATA_KEY_CHARS_MAX, METADATA_VALUE_CHARS_MAX = 16, 64, 512
FILES_MAX = 10_000
BATCHES_MAX, BATCHES_SHOWN = 100, 20
DIGITS = re.compile(r"[0-9]{1,6}")
READ_BYTES = 1024 * 1024
RETRY_AFTER_S = 30
TIMES = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")


def find_store(pipeline: Pipeline) -> BatchStore | None:
    """Where files and batches are kept; None where the config asks for none."""
    found = pipeline.steps.batches
    return found if isinstance(found, BatchStore) else None


class BatchPages:
    """The endpoints of files and batches."""

    def __init__(
        self, pipeline: Pipeline, bodies: HeldBodies, clock: Callable[[], float] = time.time
    ) -> None:
        self._pipeline = pipeline
        self._bodies = bodies
        self._clock = clock

    def routes(self, guard: Guard) -> list[Route]:
        """The routes, by the rulings on them."""
        pages: Mapping[str, Mapping[str, Page]] = {
            "/v1/files": {"POST": self.upload, "GET": self.list_files},
            "/v1/files/{file_id}": {"GET": self.show_file, "DELETE": self.delete_file},
            "/v1/files/{file_id}/content": {"GET": self.read_file},
            "/v1/batches": {"POST": self.create_batch, "GET": self.list_batches},
            "/v1/batches/{batch_id}": {"GET": self.show_batch},
            "/v1/batches/{batch_id}/cancel": {"POST": self.cancel_batch},
        }
        return [guard.page(path, _by_method(found), [*found]) for path, found in pages.items()]

    async def upload(self, request: Request) -> Response:
        """`POST /v1/files`."""
        store = self._store()
        tenant = read_caller(request).tenant
        await self._check_used(store, tenant)
        # Imported late: only a Router with batches needs its package.
        from serve_app.gateway.uploads import PIECE_BYTES, read_upload

        file_id = f"file-{uuid.uuid4().hex}"
        with BodyPlace(self._bodies) as held, translate_failures():
            held.add(PIECE_BYTES)
            async with store.create(file_id, "upload") as sink:
                upload = await read_upload(
                    request.receive,
                    RequestHeaders(request.scope),
                    store.config.file_bytes_max,
                    lambda piece: store.run(sink.write, piece),
                )
        file = StoredFile(
            file_id, tenant, upload.purpose, upload.name, upload.size_bytes, self._clock()
        )
        await self._run(store.ledger.add_file, file)
        return _json(render_file(file, store.config))

    async def _check_used(self, store: BatchStore, tenant: str) -> None:
        used_bytes = await self._run(store.ledger.used_bytes, tenant)
        if used_bytes >= store.config.tenant_bytes_max:
            raise StorageUsedUp(used_bytes, store.config.tenant_bytes_max)

    async def list_files(self, request: Request) -> Response:
        """`GET /v1/files`."""
        store = self._store()
        newest = read_newest(request)
        limit = read_limit(request, FILES_MAX, FILES_MAX)
        found = await self._run(
            store.ledger.list_files,
            read_caller(request).tenant,
            purpose=request.query_params.get("purpose"),
            after=request.query_params.get("after"),
            limit=limit + 1,
            newest=newest,
        )
        return _json(render_list([render_file(file, store.config) for file in found], limit))

    async def show_file(self, request: Request) -> Response:
        """`GET /v1/files/{file_id}`."""
        store = self._store()
        file = await self._find_file(store, request, request.path_params["file_id"])
        return _json(render_file(file, store.config))

    async def read_file(self, request: Request) -> Response:
        """`GET /v1/files/{file_id}/content`."""
        store = self._store()
        file = await self._find_file(store, request, request.path_params["file_id"])
        first = await self._run(store.files.read, file.file_id, 0, READ_BYTES)
        headers = {"content-length": str(file.size_bytes)}
        rest = self._read_on(store, file, first)
        return StreamingResponse(rest, headers=headers, media_type="application/octet-stream")

    async def _read_on(
        self, store: BatchStore, file: StoredFile, chunk: bytes
    ) -> AsyncIterator[bytes]:
        offset = 0
        while chunk:
            yield chunk
            offset += len(chunk)
            if offset >= file.size_bytes:
                return
            chunk = await self._run(store.files.read, file.file_id, offset, READ_BYTES)

    async def delete_file(self, request: Request) -> Response:
        """`DELETE /v1/files/{file_id}`."""
        store = self._store()
        file = await self._find_file(store, request, request.path_params["file_id"])
        if not await self._run(store.ledger.delete_file, file.tenant, file.file_id):
            raise FileInUse
        await self._run(store.files.delete, file.file_id)
        return _json({"id": file.file_id, "object": "file", "deleted": True})

    async def create_batch(self, request: Request) -> Response:
        """`POST /v1/batches`."""
        store = self._store()
        headers = RequestHeaders(request.scope)
        headers.check_media_type()
        with BodyPlace(self._bodies) as held:
            body = await read_page_body(request.receive, headers, BODY_BYTES_MAX, held)
        document = parse_json(body)
        endpoint, metadata = read_batch_fields(document)
        caller = read_caller(request)
        check_endpoint(caller, endpoint)
        file = await self._find_file(store, request, document["input_file_id"], "input_file_id")
        now = self._clock()
        batch = Batch(
            batch_id=f"batch_{uuid.uuid4().hex}",
            owner=BatchOwner(
                caller.tenant, caller.key_id, caller.user, caller.roles, caller.address
            ),
            endpoint=endpoint.value,
            input_file_id=file.file_id,
            created_at=now,
            expires_at=now + store.config.window_s,
            metadata=metadata,
        )
        await self._run(store.ledger.add_batch, batch)
        store.more.set()
        return _json(render_batch(batch))

    async def list_batches(self, request: Request) -> Response:
        """`GET /v1/batches`."""
        store = self._store()
        limit = read_limit(request, BATCHES_SHOWN, BATCHES_MAX)
        found = await self._run(
            store.ledger.list_batches,
            read_caller(request).tenant,
            after=request.query_params.get("after"),
            limit=limit + 1,
        )
        return _json(render_list([render_batch(batch) for batch in found], limit))

    async def show_batch(self, request: Request) -> Response:
        """`GET /v1/batches/{batch_id}`."""
        store, batch_id = self._store(), request.path_params["batch_id"]
        tenant = read_caller(request).tenant
        batch = None
        if batch_id.startswith(BATCH_PREFIX):
            batch = await self._run(store.ledger.find_batch, tenant, batch_id)
        if batch is None:
            raise NoSuchBatch(batch_id)
        return _json(render_batch(batch))

    async def cancel_batch(self, request: Request) -> Response:
        """`POST /v1/batches/{batch_id}/cancel`."""
        store, batch_id = self._store(), request.path_params["batch_id"]
        tenant = read_caller(request).tenant
        batch = None
        if batch_id.startswith(BATCH_PREFIX):
            batch = await self._run(store.ledger.cancel, tenant, batch_id, self._clock())
        if batch is None:
            raise NoSuchBatch(batch_id)
        if batch.status not in (BatchStatus.CANCELLING, BatchStatus.CANCELLED):
            raise BatchEnded(batch.status)
        store.more.set()
        return _json(render_batch(batch))

    def _store(self) -> BatchStore:
        store = find_store(self._pipeline)
        if store is None:
            raise BatchesOff
        return store

    async def _find_file(
        self, store: BatchStore, request: Request, file_id: str, param: str = "id"
    ) -> StoredFile:
        file = await self._run(store.ledger.find_file, read_caller(request).tenant, file_id)
        if file is None:
            raise NoSuchFile(file_id, param)
        return file

    async def _run(self, work: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Do work of the store that blocks.

        Raises:
            StorageFailing: the work cannot be done at the moment.
        """
        with translate_failures():
            return await self._store().run(work, *args, **kwargs)


@contextmanager
def translate_failures() -> Iterator[None]:
    """Turn failures of the store into the error for a client."""
    try:
        yield
    except (FileStoreUnavailable, LedgerUnavailable) as error:
        logger.warning("files and batches cannot be read or written: %s", error)
        raise StorageFailing(retry_after_s=RETRY_AFTER_S) from None


def _by_method(pages: Mapping[str, Page]) -> Page:
    async def page(request: Request) -> Response:
        # Starlette adds HEAD to every GET.
        method = "GET" if request.method == "HEAD" else request.method
        return await pages[method](request)

    return page


def read_batch_fields(document: Mapping[str, Any]) -> tuple[Endpoint, Mapping[str, str] | None]:
    """The endpoint and the metadata of a new batch.

    Raises:
        BadRequest: a field is wrong; names it.
    """
    for key in document:
        if key == "output_expires_after":
            raise RefusedField(key, "files are kept as long as the operator says")
        if key not in KEYS:
            raise UnknownField(key)
    if not isinstance(document.get("input_file_id"), str):
        raise InvalidField("input_file_id", "the id of an uploaded file")
    if document.get("endpoint") not in list(BATCH_ENDPOINTS):
        raise InvalidField("endpoint", f"one of {', '.join(BATCH_ENDPOINTS)}")
    if document.get("completion_window") != WINDOW:
        raise InvalidField("completion_window", f"'{WINDOW}'")
    return Endpoint(document["endpoint"]), _read_metadata(document.get("metadata"))


def _read_metadata(metadata: object) -> Mapping[str, str] | None:
    if metadata is None:
        return None
    fits = (
        isinstance(metadata, dict)
        and len(metadata) <= METADATA_MAX
        and all(len(key) <= METADATA_KEY_CHARS_MAX for key in metadata)
        and all(
            isinstance(value, str) and len(value) <= METADATA_VALUE_CHARS_MAX
            for value in metadata.values()
        )
    )
    if not fits or not isinstance(metadata, dict):
        raise InvalidField(
            "metadata",
            f"an object of at most {METADATA_MAX} strings, keys of at most "
            f"{METADATA_KEY_CHARS_MAX} and values of at most {METADATA_VALUE_CHARS_MAX} characters",
        )
    return metadata


def read_newest(request: Request) -> bool:
    """Whether a list begins with its newest entry.

    Raises:
        InvalidField: `order` is neither of its two values.
    """
    order = request.query_params.get("order", "desc")
    if order not in ("asc", "desc"):
        raise InvalidField("order", "asc or desc")
    return order == "desc"


def read_limit(request: Request, default: int, most: int) -> int:
    """The length of a page of a list.

    Raises:
        InvalidField: `limit` is no number, or too large.
    """
    given = request.query_params.get("limit")
    if given is None:
        return default
    if not DIGITS.fullmatch(given) or not 1 <= int(given) <= most:
        raise InvalidField("limit", f"a whole number from 1 to {most}")
    return int(given)


def render_file(file: StoredFile, config: BatchesConfig) -> dict[str, object]:
    """A file, as OpenAI's clients know it."""
    return {
        "id": file.file_id,
        "object": "file",
        "bytes": file.size_bytes,
        "created_at": int(file.created_at),
        "expires_at": int(file.created_at + config.retention_days * DAY_S),
        "filename": file.name,
        "purpose": file.purpose,
        "status": "processed",
    }


def render_batch(batch: Batch) -> dict[str, object]:
    """A batch, as OpenAI's clients know it."""
    began_at = {f"{name}_at": _seconds(batch.began_at.get(name)) for name in TIMES}
    faults = [
        {"code": fault.code, "message": fault.message, "param": fault.param, "line": fault.line}
        for fault in batch.faults
    ]
    return {
        "id": batch.batch_id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "errors": {"object": "list", "data": faults} if faults else None,
        "input_file_id": batch.input_file_id,
        "completion_window": WINDOW,
        "status": batch.status,
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
        "created_at": int(batch.created_at),
        "expires_at": int(batch.expires_at),
        **began_at,
        "request_counts": {
            "total": batch.total,
            "completed": batch.completed,
            "failed": batch.failed,
        },
        "metadata": batch.metadata,
    }


def _seconds(at: float | None) -> int | None:
    return None if at is None else int(at)


def render_list(found: Sequence[Mapping[str, object]], limit: int) -> dict[str, object]:
    """A page of a list; one more than the limit was asked for, to see whether there is more."""
    shown = found[:limit]
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": len(found) > limit,
    }


def _json(document: Mapping[str, object]) -> Response:
    return Response(orjson.dumps(document), media_type="application/json")
