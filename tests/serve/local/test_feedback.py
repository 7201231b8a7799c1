"""Labels in idle time on the real stack: kept, made while nobody calls, given up for a call."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from serve_app.offline.learning.records import read_records
from tests.serve.service import Service, wait_for

pytestmark = pytest.mark.serve

QUESTIONS = {
    "capital": "What is the capital of France?",
    "sum": "What is 7 + 5?",
    "hello": "Hello",
}


@pytest.fixture
def directory(local: Service, tmp_path: Path) -> Path:
    """Where the running service keeps every call that may be kept."""
    path = tmp_path / "feedback"
    feedback = {
        "directory": str(path),
        "sample_ratio": 1,
        "consent": "assumed",
        "text_chars_max": 100_000,
    }
    local.configure({"feedback": feedback})
    return path


def ask(service: Service, request_id: str, **body: Any) -> httpx.Response:
    """One call of `model: auto` under a name of its own."""
    document = {"max_tokens": 32, "temperature": 0, **body}
    headers = {"x-request-id": request_id}
    url = f"{service.base_url}/v1/chat/completions"
    answer = httpx.post(url, json=document, headers=headers, timeout=120)
    assert answer.status_code == 200, answer.text
    return answer


def lines(directory: Path, kind: str) -> dict[str, dict[str, Any]]:
    """What the log holds of a kind, by request id."""
    texts = [path.read_text() for path in directory.glob("calls_*.jsonl")]
    found = map(orjson.loads, "".join(texts).splitlines())
    return {line["request_id"]: line for line in found if line["kind"] == kind}


def test_calls_are_labelled_while_nobody_calls(local: Service, directory: Path) -> None:
    """Whole or streamed, they get a label, feedback is joined, and `learn` can read all of it."""
    for number, (name, text) in enumerate(QUESTIONS.items()):
        message = {"role": "user", "content": f"{text} Write to me@example.org."}
        ask(local, name, messages=[message], stream=number % 2 == 0)
    url = f"{local.base_url}/v1/chat/completions"
    refused = {"x-feedback-consent": "no", "x-request-id": "private"}
    body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
    assert httpx.post(url, json=body, headers=refused).status_code == 200
    wait_for(
        lambda: lines(directory, "label").keys() == QUESTIONS.keys(),
        timeout_s=40,
        what="every call that may be kept has its label",
    )
    calls = lines(directory, "call")
    assert calls.keys() == QUESTIONS.keys()
    assert "me@example.org" not in str(calls)
    assert calls["hello"]["messages"][0]["content"] == "Hello Write to [email]."
    report = {"request_id": "sum", "right": False}
    assert httpx.post(f"{local.base_url}/v1/feedback", json=report).status_code == 202
    wait_for(lambda: "sum" in lines(directory, "feedback"), timeout_s=10, what="the feedback")
    records = read_records([directory])
    assert len(records.items) == len(QUESTIONS)
    [judged] = [record for record in records.items if "7 + 5" in record.text]
    assert judged.fast == 0
    assert directory.stat().st_mode & 0o077 == 0


def test_a_label_gives_way_to_a_call(local: Service, directory: Path) -> None:
    """Within a second its engine is free, and it is tried again when the calls have ended."""

    def fates(fate: str) -> float:
        return local.metric("ray_serve_app_feedback_samples_total", fate=fate)

    before = {fate: fates(fate) for fate in ("yielded", "undecided")}
    message = {"role": "user", "content": "Hello"}
    answer = ask(local, "long", messages=[message], max_tokens=600, ignore_eos=True)
    assert answer.headers["x-route-tier"] == "fast"
    wait_for(
        lambda: local.ongoing("tier-strong") == 1, timeout_s=20, what="the strong tier is asked"
    )
    local.chat(model="fast", max_tokens=1)
    left_at = time.monotonic()
    wait_for(lambda: local.ongoing("tier-strong") == 0, timeout_s=5, what="the label call ends")
    assert time.monotonic() - left_at < 1
    wait_for(lambda: fates("yielded") > before["yielded"], timeout_s=15, what="it is counted")
    # Two texts of 600 tokens that differ: nobody can say whether they say the same.
    wait_for(lambda: fates("undecided") > before["undecided"], timeout_s=90, what="another try")
