"""A large batch through gateway, validator and ledger, before engines that answer at once.

`python -m tests.batches.large DIRECTORY [LINES] [LINE_BYTES]` prints what each stage has cost as
lines of JSON; the default is the largest batch of the default config. `tests/batches/test_large.py`
runs a smaller one.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx

from serve_app.batches.batch import BatchStatus
from serve_app.batches.build import build_store
from serve_app.batches.gate import LineGate
from serve_app.batches.worker import BatchWorker
from serve_app.config.batches import BatchesConfig
from serve_app.config.runtime import RuntimeConfig
from serve_app.config.tiers import TierConfig
from serve_app.core.call import Record
from serve_app.core.deadlines import Deadlines
from serve_app.gateway.app import build_gateway
from serve_app.gateway.batch_calls import InProcessCalls
from serve_app.leases.client import UpstreamRequest
from serve_app.pipeline import Pipeline
from serve_app.routing.scorer import HeuristicScorer
from serve_app.steps import Steps
from tests.fakes import FakeAnswer, FakeReadiness, FakeTier

CHAT = "/v1/chat/completions"
LINES, LINE_BYTES = 50_000, 4_000
BOUNDARY = "----large"
PIECE_LINES = 100
MEGABYTE = 1_000_000
TIERS = tuple(
    TierConfig(name=name, model_id=f"demo-{name}", engine={"max_model_len": 8192})
    for name in ("fast", "strong")
)
MESSAGE = {"role": "assistant", "content": "The capital of France is Paris."}
ANSWER = {
    "id": "chatcmpl-0",
    "object": "chat.completion",
    "created": 1,
    "model": "demo-fast",
    "choices": [{"index": 0, "message": MESSAGE, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 900, "completion_tokens": 9, "total_tokens": 909},
}


class QuickTier(FakeTier):
    """Answers at once, and remembers nothing."""

    @asynccontextmanager
    async def exchange(
        self, request: UpstreamRequest, deadlines: Deadlines
    ) -> AsyncIterator[FakeAnswer]:
        yield FakeAnswer([json.dumps(ANSWER).encode()])


class Forgetful:
    """A recorder that keeps nothing."""

    def finish(self, record: Record) -> None:
        """The call has ended."""


def make_line(number: int, size_bytes: int) -> bytes:
    """A line of about so many bytes."""
    text = f"{number} What is the capital of France? ".ljust(size_bytes - 190, "x")
    body = {"model": "auto", "messages": [{"role": "user", "content": text}], "max_tokens": 16}
    line = {"custom_id": f"request-{number}", "method": "POST", "url": CHAT, "body": body}
    return json.dumps(line).encode().ljust(size_bytes - 1) + b"\n"


async def make_form(lines: int, size_bytes: int) -> AsyncIterator[bytes]:
    """The body of an upload, a piece after another."""
    head = f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="{{}}"{{}}\r\n\r\n'
    yield (head.format("purpose", "") + "batch\r\n").encode()
    yield head.format("file", '; filename="large.jsonl"').encode()
    for begin in range(0, lines, PIECE_LINES):
        piece = range(begin, min(begin + PIECE_LINES, lines))
        yield b"".join(make_line(number, size_bytes) for number in piece)
    yield f"\r\n--{BOUNDARY}--\r\n".encode()


def read_memory(name: str) -> float:
    """Memory of this process in MB: `VmRSS` now, `VmHWM` at most."""
    status = Path("/proc/self/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith(f"{name}:")]
    return int(line.split()[1]) * 1024 / MEGABYTE


@contextmanager
def measured(stage: str) -> Iterator[None]:
    """Print what a stage has cost."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before_mb, cpu_s, wall_s = read_memory("VmRSS"), time.process_time(), time.monotonic()
    yield
    found = {
        "stage": stage,
        "cpu_s": round(time.process_time() - cpu_s, 1),
        "wall_s": round(time.monotonic() - wall_s, 1),
        "grown_mb": round(read_memory("VmHWM") - before_mb, 1),
    }
    print(json.dumps(found), flush=True)


async def main(directory: Path, lines: int, size_bytes: int) -> None:
    config = BatchesConfig(directory=str(directory))
    store = build_store(config)
    steps, runtime = Steps(batches=store), RuntimeConfig(batches=config)
    tiers = {tier.name: QuickTier() for tier in TIERS}
    pipeline = Pipeline(TIERS, tiers, HeuristicScorer(), runtime, None, steps)
    app = build_gateway(TIERS, pipeline, Forgetful(), FakeReadiness())
    calls = InProcessCalls(app, pipeline)
    worker = BatchWorker("r1", lambda: store, calls, LineGate(lambda: False))
    transport = httpx.ASGITransport(app=app)

    async def until(batch_id: str, *states: BatchStatus) -> None:
        while (await store.run(store.ledger.read_batch, batch_id)).status not in states:
            await asyncio.sleep(0.1)

    async with httpx.AsyncClient(transport=transport, base_url="http://test/v1") as client:
        with measured("upload"):
            uploaded = await client.post(
                "/files",
                content=make_form(lines, size_bytes),
                headers={"content-type": f"multipart/form-data; boundary={BOUNDARY}"},
            )
        body = {
            "input_file_id": uploaded.raise_for_status().json()["id"],
            "endpoint": CHAT,
            "completion_window": "24h",
        }
        created = await client.post("/batches", json=body)
        batch_id = created.raise_for_status().json()["id"]
        worker.start()
        with measured("validate"):
            await until(batch_id, BatchStatus.IN_PROGRESS, BatchStatus.FAILED)
        with measured("answer"):
            await until(batch_id, BatchStatus.FINALIZING, BatchStatus.FAILED)
        with measured("write"):
            await until(batch_id, BatchStatus.COMPLETED, BatchStatus.FAILED)
        batch = (await client.get(f"/batches/{batch_id}")).json()
    await worker.close()
    path = directory / "files" / batch["output_file_id"]
    print(json.dumps({"batch": batch, "output_lines": path.read_bytes().count(b"\n")}))
    await store.close()


if __name__ == "__main__":
    place, *sizes = sys.argv[1:]
    line_count, length = [*map(int, sizes), *(LINES, LINE_BYTES)[len(sizes) :]]
    asyncio.run(main(Path(place), line_count, length))
