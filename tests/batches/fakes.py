"""Calls of lines that are answered from a script, and stores in a test's directory."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from serve_app.batches.batch import Batch, BatchOwner, LineFault, StoredFile
from serve_app.batches.build import build_store
from serve_app.batches.lines import LineAnswer
from serve_app.batches.store import BatchStore
from serve_app.config.batches import BatchesConfig
from serve_app.core.caller import LineTurn

ACME = BatchOwner("acme")
CHAT = "/v1/chat/completions"
FOREVER = 1e12


class FakeLineCalls:
    """Answers each line with its own body."""

    body_bytes_max = 10_000

    def __init__(self, seconds_max: float = 0.0) -> None:
        self._seconds_max = seconds_max
        self.statuses: dict[str, list[int]] = {}
        """The statuses of the first answers, by request id; 200 after them."""
        self.requests: list[str] = []
        self.turns: list[LineTurn] = []

    def check(self, owner: BatchOwner, endpoint: str, body: bytes) -> LineFault | None:
        wrong = orjson.loads(body).get("wrong")
        return wrong and LineFault("invalid_value", "It is wrong.", "wrong")

    async def call(
        self, owner: BatchOwner, endpoint: str, body: bytes, request_id: str, turn: LineTurn
    ) -> LineAnswer:
        self.turns.append(turn)
        self.requests.append(request_id)
        await asyncio.sleep(random.uniform(0, self._seconds_max))
        script = self.statuses.get(request_id)
        status = script.pop(0) if script else orjson.loads(body).get("status", 200)
        return LineAnswer(status, request_id, body, {"x-route-tier": "fast"})


def open_store(directory: Path, **keys: Any) -> BatchStore:
    """A store with leases that end within a test."""
    config = BatchesConfig(directory=str(directory), **keys)
    return build_store(config)


def make_lines(count: int, body: Callable[[int], dict[str, Any]] = lambda n: {"n": n}) -> bytes:
    """A file with so many lines."""
    lines = [
        {"custom_id": f"c{n}", "method": "POST", "url": CHAT, "body": body(n)}
        for n in range(1, count + 1)
    ]
    return b"".join(orjson.dumps(line) + b"\n" for line in lines)


def put_file(store: BatchStore, content: bytes, file_id: str = "file-in") -> str:
    """A file that has been uploaded."""
    with store.files.create(file_id, "test") as sink:
        sink.write(content)
    store.ledger.add_file(StoredFile(file_id, "acme", "batch", "in.jsonl", len(content), 1.0))
    return file_id


def put_batch(store: BatchStore, file_id: str, name: str = "batch_1", **values: Any) -> Batch:
    """A batch that has been created."""
    values = {"created_at": 1.0, "expires_at": FOREVER, **values}
    batch = Batch(name, ACME, CHAT, file_id, **values)
    store.ledger.add_batch(batch)
    return batch


def read_lines(store: BatchStore, file_id: str | None) -> list[dict[str, Any]]:
    """The lines of a file; none without a file."""
    if file_id is None:
        return []
    return [orjson.loads(line) for line in store.files.read(file_id).splitlines()]
