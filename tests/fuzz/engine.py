"""A tier whose engine holds bodies against the published document, and answers as vLLM does."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import orjson
from jsonschema import Draft202012Validator

from serve_app.core.call import Endpoint
from tests.fakes import FakeAnswer, FakeTier

Json = dict[str, Any]

USAGE = {"prompt_tokens": 3, "total_tokens": 4, "completion_tokens": 1}
ANSWERS: dict[str, Json] = {
    Endpoint.CHAT: {
        "model": "demo",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "a"}}],
        "usage": USAGE,
    },
    Endpoint.COMPLETIONS: {"model": "demo", "choices": [{"index": 0, "text": "a"}], "usage": USAGE},
    Endpoint.RESPONSES: {
        "id": "resp_1",
        "model": "demo",
        "output": [],
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "top_p": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "background": False,
        "max_output_tokens": 8,
        "service_tier": "auto",
        "status": "completed",
        "truncation": "disabled",
    },
    Endpoint.MESSAGES: {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "content": [{"type": "text", "text": "a"}],
        "model": "demo",
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 3, "output_tokens": 1},
    },
    Endpoint.COUNT_TOKENS: {"input_tokens": 3},
    Endpoint.EMBEDDINGS: {
        "model": "demo",
        "data": [{"index": 0, "embedding": [0.5]}],
        "usage": USAGE,
    },
    Endpoint.RERANK: {
        "id": "rerank-1",
        "model": "demo",
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
        "results": [{"index": 0, "document": {"text": "a"}, "relevance_score": 0.5}],
    },
    Endpoint.SCORE: {
        "model": "demo",
        "data": [{"index": 0, "object": "score", "score": 0.5}],
        "usage": USAGE,
    },
    Endpoint.TOKENIZE: {"count": 1, "max_model_len": 64, "tokens": [1]},
    Endpoint.DETOKENIZE: {"prompt": "a"},
}


class FakeEngineTier(FakeTier):
    """A body that fits the document gets an answer that does, any other the engine's 400."""

    def __init__(self) -> None:
        super().__init__()
        document = orjson.loads(files("serve_app.gateway").joinpath("openapi.json").read_bytes())
        self._validators = {
            path: Draft202012Validator(
                {**_request_schema(document, path), "components": document["components"]}
            )
            for path in ANSWERS
        }

    @property
    def answer(self) -> FakeAnswer:
        request = self.requests[-1]
        path, body = request._path.decode(), orjson.loads(request._body)
        if not self._validators[path].is_valid(body):
            return FakeAnswer([orjson.dumps(_refusal())], status=400)
        answer = orjson.dumps(ANSWERS[path])
        if body.get("stream") and Endpoint(path).generates:
            return FakeAnswer([b"data: " + answer + b"\n\n"], content_type=b"text/event-stream")
        return FakeAnswer([answer])

    @answer.setter
    def answer(self, answer: object) -> None:
        """What the body asks for decides."""


def _request_schema(document: Json, path: str) -> Json:
    content = document["paths"][path]["post"]["requestBody"]["content"]
    schema: Json = content["application/json"]["schema"]
    return schema


def _refusal() -> Json:
    error = {"message": "1 validation error", "type": "BadRequestError", "param": None, "code": 400}
    return {"error": error}
