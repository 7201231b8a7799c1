"""The cascade on the real stack: whose bytes the client sees, what becomes of the draft."""

from __future__ import annotations

import json
import re
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.serve.service import Service, settled, wait_for

pytestmark = pytest.mark.serve

CASCADE = {"x-route-policy": "cascade"}
QUESTION = "What is the capital of France?"
CHAT = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 32, "temperature": 0}

LONG = {**CHAT, "max_tokens": 7000, "ignore_eos": True, "stream": True}
SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Paris"]}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA}}
SCHEMA_FORMAT = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
REQUIRED = {"max_tokens": 200, "tools": [TOOL], "tool_choice": "required"}

CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", CHAT),
    "chat, usage": ("/v1/chat/completions", {**CHAT, "stream_options": {"include_usage": True}}),
    "chat, logprobs": ("/v1/chat/completions", {**CHAT, "logprobs": True, "top_logprobs": 2}),
    "chat, n": ("/v1/chat/completions", {**CHAT, "n": 2, "temperature": 0.01, "seed": 7}),
    "chat, stop": ("/v1/chat/completions", {**CHAT, "stop": [" is"]}),
    "chat, tools": ("/v1/chat/completions", {**CHAT, **REQUIRED}),
    "chat, schema": ("/v1/chat/completions", {**CHAT, "response_format": SCHEMA_FORMAT}),
    "completions": ("/v1/completions", {"prompt": "Once", "max_tokens": 32, "temperature": 0}),
    "completions, two prompts, logprobs": (
        "/v1/completions",
        {"prompt": ["Once", "Twice"], "max_tokens": 32, "temperature": 0, "logprobs": 1},
    ),
    "responses": ("/v1/responses", {"input": QUESTION, "max_output_tokens": 32, "temperature": 0}),
    "messages": ("/v1/messages", {**CHAT, "system": "Be brief."}),
}
"""Greedy, so that a model gives the same answer again. Some are longer than the checkpoint."""

VOLATILE = re.compile(
    r'"(id|created|created_at|completed_at|request_id|item_id|obfuscation)":\s*("[^"]*"|[\d.]+)'
)
"""What differs between two answers of the same words."""

WORDS = re.compile(r'"(?:content|text|delta|arguments|partial_json)": "((?:[^"\\]|\\.)*)"')


class Cascade:
    """The cascade's settings of a service, deployed when they change."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._settings: dict[str, float] = {}

    def force(self, **settings: float) -> Service:
        """Have every draft released (`confidence_min=0`) or none (1)."""
        if settings != self._settings:
            self._service.configure({"routing": {"cascade": settings}})
            self._settings = settings
            reason = "confident" if settings["confidence_min"] == 0 else "escalated"
            wait_for(
                lambda: ask(self._service, "chat").headers["x-route-reason"] == reason,
                timeout_s=30,
                what="the threshold holds",
            )
        return self._service


@pytest.fixture(scope="module")
def cascade(local: Service) -> Cascade:
    return Cascade(local)


@pytest.fixture
def released(cascade: Cascade) -> Service:
    """A service that is sure of every draft."""
    return cascade.force(confidence_min=0)


@pytest.fixture
def escalated(cascade: Cascade) -> Service:
    """A service that is sure of no draft."""
    return cascade.force(confidence_min=1)


def ask(service: Service, name: str, model: str = "auto", **more: object) -> httpx.Response:
    path, body = CALLS[name]
    document = {**body, "model": model, **more}
    if not document.get("stream"):
        document.pop("stream_options", None)
    response = httpx.post(f"{service.base_url}{path}", json=document, headers=CASCADE, timeout=60)
    assert response.status_code == 200, response.text
    return response


def words(response: httpx.Response) -> object:
    """An answer without its ids and times; of a stream the words, the fields and the usage.

    An engine under load may send two tokens in one event.
    """
    text = VOLATILE.sub(r'"\1":0', response.text)
    if not response.headers["content-type"].startswith("text/event-stream"):
        return text
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    fields = {field for event in events for field in walk(event)}
    spoken: dict[int, str] = defaultdict(str)
    for event in events:
        for choice in event.get("choices") or [event]:
            spoken[choice.get("index", 0)] += "".join(WORDS.findall(json.dumps(choice)))
    usages = re.findall(r'"usage":(\{.*?\})', text)
    return fields, dict(spoken), usages[-1:]


def walk(value: object, path: str = "") -> Iterator[str]:
    """The paths of all fields."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield f"{path}.{key}"
            yield from walk(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for inner in value:
            yield from walk(inner, f"{path}[]")


def words_of(service: Service, name: str, model: str, **more: object) -> object:
    response = ask(service, name, model, **more)
    assert "x-route-escalated" not in response.headers
    return words(response)


every_call = pytest.mark.parametrize("name", CALLS)
both_ways = pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])


@every_call
@both_ways
def test_a_sure_draft_is_the_fast_models_answer(released: Service, name: str, stream: bool) -> None:
    """Byte for byte what the fast model answers when it is asked by name."""
    response = ask(released, name, stream=stream)
    assert response.headers["x-route-tier"] == "fast"
    assert response.headers["x-route-reason"] == "confident"
    assert response.headers["x-route-escalated"] == "false"
    assert 0 < float(response.headers["x-route-confidence"]) < 1
    assert "x-draft" not in response.headers
    assert words(response) == words_of(released, name, "fast", stream=stream)
    shown = re.search('"logprob":|"token_logprobs":', response.text) is not None
    assert shown == ("logprobs" in name)


def test_a_draft_that_the_engine_refuses_is_the_answer(released: Service) -> None:
    """What is wrong with a body the client learns from the first engine that sees it."""
    url = f"{released.base_url}/v1/chat/completions"
    refused = httpx.post(url, json={**CHAT, "top_p": 7}, headers=CASCADE)
    assert refused.status_code == 400
    assert "top_p" in refused.text
    assert refused.headers["x-route-reason"] == "draft"


@every_call
@both_ways
def test_an_unsure_draft_leaves_no_byte(escalated: Service, name: str, stream: bool) -> None:
    """The answer is the strong model's alone, usage included."""
    response = ask(escalated, name, stream=stream)
    assert response.headers["x-route-tier"] == "strong"
    assert response.headers["x-route-model"] == "demo-strong"
    assert response.headers["x-route-reason"] == "escalated"
    assert response.headers["x-route-escalated"] == "true"
    assert "demo-fast" not in response.text
    assert words(response) == words_of(escalated, name, "strong", stream=stream)


def fast_tokens(service: Service) -> float:
    """Tokens that the fast engine has generated, once it has generated none for three exports."""
    return settled(
        lambda: service.metric("ray_vllm_generation_tokens_total", model_name="demo-fast")
    )


def test_an_escalated_draft_is_stopped(escalated: Service) -> None:
    """The fast engine stops near the checkpoint, while the strong one writes on."""
    before = fast_tokens(escalated)
    url = f"{escalated.base_url}/v1/chat/completions"
    with httpx.stream("POST", url, json=LONG, headers=CASCADE, timeout=120) as response:
        assert response.headers["x-route-escalated"] == "true"
        lines = response.iter_lines()
        next(lines)
        wait_for(
            lambda: escalated.ongoing("tier-fast") == 0,
            timeout_s=5,
            what="the draft's lease is free",
        )
        assert escalated.ongoing("tier-strong") == 1
        assert 16 <= fast_tokens(escalated) - before < 200
    wait_for(
        lambda: escalated.ongoing("tier-strong") == 0, timeout_s=5, what="the strong lease is free"
    )


def test_an_escalated_draft_of_a_whole_answer_is_stopped(escalated: Service) -> None:
    """It does not run to its end either, although nobody would have read it before."""
    before = fast_tokens(escalated)
    url = f"{escalated.base_url}/v1/chat/completions"
    body = {**LONG, "stream": False, "max_tokens": 600}
    answer = httpx.post(url, json=body, headers=CASCADE, timeout=120).json()
    assert answer["usage"]["completion_tokens"] == 600
    assert 16 <= fast_tokens(escalated) - before < 200


def test_both_drafts_are_counted(escalated: Service) -> None:
    """The client's usage is that of its answer; the draft's tokens are counted by themselves."""

    def discarded() -> float:
        return escalated.metric("ray_serve_app_draft_tokens_total", tier="fast", direction="out")

    before = discarded()
    request_id = f"cascade-{time.time_ns()}"
    headers = {**CASCADE, "x-request-id": request_id}
    body = {**LONG, "stream": False, "max_tokens": 40}
    url = f"{escalated.base_url}/v1/chat/completions"
    answer = httpx.post(url, json=body, headers=headers, timeout=60)
    assert answer.json()["usage"]["completion_tokens"] == 40
    wait_for(lambda: discarded() >= before + 16, timeout_s=15, what="the draft's tokens")
    line = wait_for(lambda: access_line(request_id), timeout_s=5, what="the access log")
    assert line["tier"] == "strong"
    assert line["reason"] == "escalated"
    assert line["completion_tokens"] == 40
    assert line["draft_tier"] == "fast"
    assert line["escalated"] is True
    assert 16 <= line["draft_completion_tokens"] < 40
    assert 0 < line["confidence"] < 1


def access_line(request_id: str) -> dict[str, Any] | None:
    """The line of a call in the access logs of the running cluster."""
    for path in Path("/tmp/ray/session_latest/logs/serve").glob("access_*.jsonl"):
        for line in path.read_text().splitlines():
            if request_id in line:
                found: dict[str, Any] = json.loads(line)
                return found
    return None


def test_only_auto_calls_are_drafted(escalated: Service) -> None:
    """A caller who names a model gets it at once, and a wrong policy is refused by name."""
    response = ask(escalated, "chat", "fast")
    assert (response.headers["x-route-tier"], response.headers["x-route-reason"]) == (
        "fast",
        "model",
    )
    url = f"{escalated.base_url}/v1/chat/completions"
    refused = httpx.post(url, json=CHAT, headers={"x-route-policy": "best"})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "x-route-policy"


def test_a_client_that_leaves_while_its_draft_is_held(released: Service, cascade: Cascade) -> None:
    """Nothing has been sent to it yet, and still its going stops the engine."""
    cascade.force(confidence_min=1, checkpoint_tokens=256)
    before = fast_tokens(released)
    url = f"{released.base_url}/v1/chat/completions"
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(url, json=LONG, headers=CASCADE, timeout=httpx.Timeout(10, read=0.15))
    # On a busy machine the draft may have reached its checkpoint before the going is noticed.
    wait_for(
        lambda: released.ongoing("tier-fast") == released.ongoing("tier-strong") == 0,
        timeout_s=5,
        what="both leases are free",
    )
    assert fast_tokens(released) - before < 1000
