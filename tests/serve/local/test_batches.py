"""Batches on the real stack, by OpenAI's client as it is, and in the capacity that is left."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types import Batch

from tests.batches.receiver import SECRET, running_receiver
from tests.serve.service import Service, wait_for

pytestmark = pytest.mark.serve

CHAT = "/v1/chat/completions"
ENDED = ("completed", "failed", "expired", "cancelled")
QUESTIONS = (
    "What is the capital of France?",
    "Tom has 4 boxes with 6 apples each and gives away 9. How many apples are left?",
)


def make_line(number: int, **body: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": QUESTIONS[number % 2]}]
    body = {"model": "auto", "messages": messages, "max_tokens": 24, "temperature": 0, **body}
    return {"custom_id": f"q{number}", "method": "POST", "url": CHAT, "body": body}


@pytest.fixture
def client(local: Service) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{local.base_url}/v1", api_key="unused", max_retries=5)


def start(client: openai.OpenAI, path: Path, lines: list[dict[str, Any]]) -> Batch:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with path.open("rb") as file:
        uploaded = client.files.create(file=file, purpose="batch")
    return client.batches.create(input_file_id=uploaded.id, endpoint=CHAT, completion_window="24h")


def end(client: openai.OpenAI, batch: Batch) -> Batch:
    def ended() -> Batch | None:
        found = client.batches.retrieve(batch.id)
        return found if found.status in ENDED else None

    found = wait_for(ended, timeout_s=120, what="the batch has ended")
    assert found is not None
    return found


def read(client: openai.OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    assert file_id is not None
    return [json.loads(line) for line in client.files.content(file_id).text.splitlines()]


def test_a_batch_is_routed_line_by_line(
    local: Service, client: openai.OpenAI, tmp_path: Path
) -> None:
    """Easy lines go to `fast` and hard ones to `strong`; a refused line is in the error file."""
    lines = [make_line(n) for n in range(40)]
    lines.append(make_line(40, messages=[{"role": "user", "content": "word " * 9000}]))
    batch = end(client, start(client, tmp_path / "in.jsonl", lines))
    assert batch.status == "completed", batch
    assert batch.request_counts is not None
    assert batch.request_counts.to_dict() == {"total": 41, "completed": 40, "failed": 1}
    output = read(client, batch.output_file_id)
    assert [line["custom_id"] for line in output] == [f"q{n}" for n in range(40)]
    tiers = [line["response"]["headers"]["x-route-tier"] for line in output]
    assert tiers == ["fast", "strong"] * 20
    answers = Counter(
        line["response"]["body"]["choices"][0]["message"]["content"] for line in output
    )
    assert answers["The capital of France is Paris."] == 20
    [refused] = read(client, batch.error_file_id)
    assert refused["response"]["body"]["error"]["code"] == "context_length_exceeded"


# A killed Router takes counters with it that other tests of this service read.
@pytest.mark.faults
def test_a_batch_outlives_its_router(local: Service, client: openai.OpenAI, tmp_path: Path) -> None:
    """A Router that is killed loses no line, and no line is answered twice in the results."""
    batch = start(client, tmp_path / "in.jsonl", [make_line(n) for n in range(300)])

    def some_done() -> bool:
        counts = client.batches.retrieve(batch.id).request_counts
        return counts is not None and counts.completed > 20

    wait_for(some_done, timeout_s=60, what="some lines are answered")
    [router] = local.replica_processes("Router")
    os.kill(router.pid, signal.SIGKILL)
    local_again = client.with_options(timeout=120, max_retries=20)
    batch = end(local_again, batch)
    output = read(client, batch.output_file_id)
    assert sorted(line["custom_id"] for line in output) == sorted(f"q{n}" for n in range(300))


def test_a_response_in_the_background(client: openai.OpenAI) -> None:
    """It is fetched by its id once it is there."""
    response = client.responses.create(model="auto", input=QUESTIONS[0], background=True)
    assert response.status == "queued"

    def ended() -> bool:
        found = client.responses.retrieve(response.id)
        return found.status not in ("queued", "in_progress")

    wait_for(ended, timeout_s=60, what="the response is there")
    found = client.responses.retrieve(response.id)
    assert (found.status, found.output_text) == ("completed", "The capital of France is Paris.")


def test_a_receiver_is_told_of_both(local: Service, client: openai.OpenAI, tmp_path: Path) -> None:
    """A batch and a background response that have ended, each by an event with its id."""
    (tmp_path / "secret").write_text(SECRET)
    with running_receiver() as receiver:
        receiver.script = [500]
        hook = receiver.hook(secret={"file": str(tmp_path / "secret")})
        directory = str(tmp_path / "batches")
        local.configure({"batches": {"directory": directory, "webhooks": [hook]}})
        try:
            batch = end(client, start(client, tmp_path / "in.jsonl", [make_line(1)]))
            response = client.responses.create(model="auto", input=QUESTIONS[0], background=True)
            told = {batch.id: "batch.completed", response.id: "response.completed"}

            def heard() -> bool:
                taken = receiver.requests[1:]
                return {one.unwrap().data.id: one.unwrap().type for one in taken} == told

            wait_for(heard, timeout_s=60, what="both events are there, one at the second attempt")
        finally:
            local.restore()
