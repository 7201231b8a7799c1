"""The official clients, unmodified, and `serve-app evaluate`, against the real stack."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import anthropic
import httpx
import openai
import pytest

from tests.serve.service import Service, tool

pytestmark = pytest.mark.serve

HELLO = [{"role": "user", "content": "Hello"}]
TO_THE_END = {"ignore_eos": True}
"""An extra of vLLM's: exactly `max_tokens` tokens."""

SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Paris"]}, "big": {"type": "boolean"}},
    "required": ["city", "big"],
    "additionalProperties": False,
}
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Rome", "Paris"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture
def client(local: Service) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{local.base_url}/v1", api_key="none", max_retries=0) as opened:
        yield opened


@pytest.fixture
def claude(local: Service) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=local.base_url, api_key="none", max_retries=0) as opened:
        yield opened


@pytest.mark.parametrize("model", ["auto", "fast", "strong", "demo-fast", "demo-strong"])
def test_chat(client: openai.OpenAI, model: str) -> None:
    """Every name of every tier answers, and the answer names the model that wrote it."""
    answer = client.chat.completions.create(
        model=model, messages=HELLO, max_tokens=8, extra_body=TO_THE_END
    )
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 8
    assert answer.model == ("demo-strong" if "strong" in model else "demo-fast")


def test_chat_stream_with_usage(client: openai.OpenAI) -> None:
    """A stream ends with the usage that was asked for."""
    chunks = list(
        client.chat.completions.create(
            model="fast",
            messages=HELLO,
            max_tokens=8,
            stream=True,
            stream_options={"include_usage": True},
            extra_body=TO_THE_END,
        )
    )
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 8
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])


def test_chat_stream_without_usage(client: openai.OpenAI) -> None:
    """A client that did not ask for usage sees none, although we count it."""
    chunks = list(
        client.chat.completions.create(
            model="fast", messages=HELLO, max_tokens=4, stream=True, extra_body=TO_THE_END
        )
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "length"
    assert [chunk.usage for chunk in chunks] == [None] * len(chunks)


async def test_async_clients(local: Service) -> None:
    """The asynchronous clients of both vendors work at the same time."""
    async with (
        openai.AsyncOpenAI(base_url=f"{local.base_url}/v1", api_key="none") as first,
        anthropic.AsyncAnthropic(base_url=local.base_url, api_key="none") as second,
    ):
        one, two = await asyncio.gather(
            first.chat.completions.create(model="fast", messages=HELLO, max_tokens=4),
            second.messages.create(model="strong", messages=HELLO, max_tokens=4),
        )
        assert one.choices[0].message.content
        assert two.content[0].type == "text"
        stream = await first.chat.completions.create(
            model="auto", messages=HELLO, max_tokens=4, stream=True
        )
        assert [chunk async for chunk in stream]
        async with second.messages.stream(model="auto", messages=HELLO, max_tokens=4) as messages:
            assert 0 < (await messages.get_final_message()).usage.output_tokens <= 4


def test_completions(client: openai.OpenAI) -> None:
    """The legacy endpoint, with several choices and echo-free text."""
    answer = client.completions.create(model="fast", prompt="Once", max_tokens=4, n=2, seed=1)
    assert len(answer.choices) == 2
    stream = client.completions.create(model="fast", prompt="Once", max_tokens=4, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream)


def test_responses(client: openai.OpenAI) -> None:
    """The responses endpoint, whole and streamed."""
    answer = client.responses.create(model="fast", input="Hello", max_output_tokens=16)
    assert answer.usage is not None
    assert 0 < answer.usage.output_tokens <= 16
    events = list(
        client.responses.create(model="fast", input="Hello", max_output_tokens=16, stream=True)
    )
    assert events[-1].type in ("response.completed", "response.incomplete")


def test_messages(claude: anthropic.Anthropic) -> None:
    """Anthropic's endpoint: whole, streamed, counted."""
    answer = claude.messages.create(
        model="strong", system="Be brief.", messages=HELLO, max_tokens=8
    )
    assert 0 < answer.usage.output_tokens <= 8
    with claude.messages.stream(model="fast", messages=HELLO, max_tokens=8) as stream:
        assert stream.get_final_text()
    assert claude.messages.count_tokens(model="fast", messages=HELLO).input_tokens > 0


def test_structured_output(client: openai.OpenAI) -> None:
    """An answer bound to a JSON schema keeps to it, whatever the model would say."""
    answer = client.chat.completions.create(
        model="strong",
        messages=HELLO,
        max_tokens=300,
        temperature=0,
        response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}},
    )
    value = json.loads(answer.choices[0].message.content or "")
    assert set(value) == {"city", "big"}


def test_tools(client: openai.OpenAI) -> None:
    """A required tool call arrives as one, with arguments that fit its schema."""
    answer = client.chat.completions.create(
        model="fast",
        messages=HELLO,
        max_tokens=300,
        temperature=0,
        tools=[TOOL],
        tool_choice="required",
    )
    call = answer.choices[0].message.tool_calls[0]
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments)["city"] in ("Rome", "Paris")


def test_sampling_options(client: openai.OpenAI) -> None:
    """Seeds repeat, `n` counts, `stop` stops, log-probabilities are there."""

    def ask(**options: object) -> openai.types.chat.ChatCompletion:
        return client.chat.completions.create(
            model="fast", messages=HELLO, max_tokens=12, **options
        )

    first, second = ask(seed=7), ask(seed=7)
    assert first.choices[0].message.content == second.choices[0].message.content
    assert len(ask(n=3).choices) == 3
    logprobs = ask(logprobs=True, top_logprobs=2).choices[0].logprobs
    assert logprobs is not None
    assert len(logprobs.content[0].top_logprobs) == 2
    text = ask(temperature=0).choices[0].message.content or ""
    stopped = ask(temperature=0, stop=[text[4:7]]).choices[0]
    assert stopped.finish_reason == "stop"
    assert text[4:7] not in (stopped.message.content or "")


def test_tokenize_and_back(local: Service) -> None:
    """Tokens of a text give the text again."""
    with httpx.Client(base_url=local.base_url) as http:
        tokens = http.post("/tokenize", json={"model": "fast", "prompt": "Hello 你好"}).json()
        body = {"model": "fast", "tokens": tokens["tokens"]}
        assert http.post("/detokenize", json=body).json()["prompt"] == "Hello 你好"


def test_models(client: openai.OpenAI, claude: anthropic.Anthropic) -> None:
    """Both clients can list the models and ask for one."""
    expected = ["auto", "fast", "strong", "demo-fast", "demo-strong"]
    assert [model.id for model in client.models.list()] == expected
    assert [model.id for model in claude.models.list()] == expected
    assert client.models.retrieve("demo-fast").id == "demo-fast"


def test_errors_are_the_clients_own(client: openai.OpenAI, claude: anthropic.Anthropic) -> None:
    """Each client raises the exception it has for the fault."""
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="gpt-4o", messages=HELLO)
    with pytest.raises(openai.BadRequestError) as too_long:
        client.chat.completions.create(
            model="fast", messages=[{"role": "user", "content": "word " * 20000}]
        )
    assert "8192" in too_long.value.message
    with pytest.raises(openai.BadRequestError) as wrong:
        client.chat.completions.create(model="fast", messages=HELLO, top_p=7)
    assert "top_p" in str(wrong.value)
    with pytest.raises(openai.BadRequestError, match="embeddings"):
        client.embeddings.create(model="fast", input="Hello")
    with pytest.raises(anthropic.NotFoundError):
        claude.messages.create(model="claude-9", messages=HELLO, max_tokens=4)


def test_nothing_else_is_forwarded(local: Service) -> None:
    """The engine's dangerous routes are not reachable."""
    with httpx.Client(base_url=local.base_url) as http:
        for path in (
            "/pause",
            "/sleep",
            "/update_weights",
            "/abort_requests",
            "/reset_prefix_cache",
            "/v1/load_lora_adapter",
            "/start_profile",
            "/metrics",
            "/docs",
        ):
            for method in ("GET", "POST"):
                assert http.request(method, path).status_code == 404, (method, path)


def test_a_request_id_may_repeat(local: Service) -> None:
    """Two calls under the same request id at the same time are two answers."""
    headers = {"x-request-id": "same"}
    body = {"model": "fast", "messages": HELLO, "max_tokens": 64, **TO_THE_END}

    async def both() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=local.base_url, timeout=60) as http:
            posts = [
                http.post("/v1/chat/completions", json=body, headers=headers) for _ in range(2)
            ]
            return list(await asyncio.gather(*posts))

    for response in asyncio.run(both()):
        assert response.status_code == 200
        assert response.headers["x-request-id"] == "same"
        assert response.json()["usage"]["completion_tokens"] == 64


def test_evaluate_asks_every_model(local: Service, tmp_path: Path) -> None:
    """`serve-app evaluate` measures both tiers and `auto`, and reads the decisions."""
    questions = ["Hello", "Prove that there are infinitely many primes.", "你好"]
    lines = [
        {"prompt": text, "check": {"type": "regex", "value": "."}, "tags": {"n": str(number)}}
        for number, text in enumerate(questions)
    ]
    path, out = tmp_path / "questions.jsonl", tmp_path / "out"
    path.write_text("\n".join(map(json.dumps, lines)))
    command = [tool("serve-app"), "evaluate", str(path), "--base-url", f"{local.base_url}/v1"]
    command += ["--out", str(out), "--max-tokens", "8", "--json"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stderr
    answers = [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]
    assert {answer["model"] for answer in answers} == {"fast", "strong", "auto"}
    assert len(answers) == 9
    assert all(answer["right"] and answer["ttft_s"] > 0 for answer in answers)
    routed = {answer["tier"] for answer in answers if answer["model"] == "auto"}
    assert routed == {"fast", "strong"}
    assert (out / "quality-over-cost.png").read_bytes().startswith(b"\x89PNG")
