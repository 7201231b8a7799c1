"""Every path x every kind of caller x the dialect of its errors, from the table of routes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from serve_app.core.call import Endpoint
from serve_app.gateway.guard import RULINGS, Guard, PageRuling
from serve_app.pages.assets import read_assets
from tests.fakes import FakeAnswer, FakeWatch
from tests.gateway.with_access import ROLES, VECTORS, Guarded, build_guarded
from tests.gateway.with_access import TIERS as TWO_TIERS

TIERS = (*TWO_TIERS, VECTORS)
STRANGERS = ("no key", "wrong key")
CALLERS = (*STRANGERS, *ROLES)

MESSAGES = {"messages": [{"role": "user", "content": "Hi"}]}
BODIES: dict[str, dict[str, Any]] = {
    Endpoint.CHAT: MESSAGES,
    Endpoint.COMPLETIONS: {"prompt": "Hi"},
    Endpoint.RESPONSES: {"input": "Hi"},
    Endpoint.INPUT_TOKENS: {"input": "Hi"},
    Endpoint.MESSAGES: {**MESSAGES, "max_tokens": 10},
    Endpoint.COUNT_TOKENS: MESSAGES,
    Endpoint.EMBEDDINGS: {"input": "Hi"},
    Endpoint.RERANK: {"query": "Hi", "documents": ["a"]},
    Endpoint.SCORE: {"text_1": "Hi", "text_2": "a"},
    Endpoint.TOKENIZE: {"prompt": "Hi"},
    Endpoint.DETOKENIZE: {"tokens": [1]},
}
ENGINE_ANSWER = b'{"count": 1, "max_model_len": 9, "tokens": [1]}'
PAGES: dict[str, dict[str, Any]] = {
    "/v1/route": MESSAGES,
    "/v1/feedback": {"request_id": "r1", "right": True},
}
NEEDS_A_MODEL = ("/v1/models", "/v1/models/{model_id:path}", "/playground/facts")
ANSWERS: dict[str, int] = {
    # Where nothing is stored, kept or counted, a caller who may ask gets 404.
    "/v1/feedback": 404,
    "/v1/responses/{response_id}": 404,
    "/v1/responses/{response_id}/cancel": 404,
    "/v1/responses/{response_id}/input_items": 404,
    "/v1/files": 404,
    "/v1/files/{file_id}": 404,
    "/v1/files/{file_id}/content": 404,
    "/v1/batches": 404,
    "/v1/batches/{batch_id}": 404,
    "/v1/batches/{batch_id}/cancel": 404,
    "/admin/limits": 404,
    # A file that does not exist.
    "/pages/{digest}/{name}": 404,
}


def list_routes() -> Iterator[tuple[str, str]]:
    """Every path and method that the gateway has, as Starlette knows them."""
    app: Any = build_guarded().app
    for route in app._pages.routes:
        yield from ((route.path, method) for method in sorted(route.methods - {"HEAD"}))


def build_with_pages() -> Guarded:
    """A gateway that has the pages for people too."""
    pages = {"playground": True, "dashboard": True}
    return build_guarded(tiers=TIERS, files=read_assets(), watch=FakeWatch([b"{}"]), pages=pages)


def expect(path: str, caller: str) -> int:
    """The status for a caller, by the rulings and by the caller's role."""
    if path in BODIES:
        return expect_call(Endpoint(path), caller)
    ruling = RULINGS[path]
    if ruling is PageRuling.OPEN:
        return ANSWERS.get(path, 200)
    if caller in STRANGERS:
        return 401
    role = ROLES[caller]
    refused = {
        PageRuling.FEEDBACK: not role.get("feedback", True),
        PageRuling.WATCHER: not (role.get("dashboard") or role.get("admin")),
        PageRuling.ADMIN: not role.get("admin", False),
    }
    if refused.get(ruling, False):
        return 403
    if path in NEEDS_A_MODEL and caller == "none":
        return 403
    if path == "/v1/route":
        return expect_call(Endpoint.CHAT, caller)
    return ANSWERS.get(path, 200)


def expect_call(endpoint: Endpoint, caller: str) -> int:
    if caller in STRANGERS:
        return 401
    if endpoint not in ROLES[caller].get("endpoints", [*Endpoint]) or caller == "none":
        return 403
    # Only `vectors` embeds and scores: for a caller without it, no model can.
    no_model = endpoint.pools and caller in ("fast", "hr")
    return 400 if no_model else 200


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize(("path", "method"), list(list_routes()))
async def test_every_path_for_every_caller(path: str, method: str, caller: str) -> None:
    """A new route fails here until there is a ruling on it."""
    gateway = build_with_pages()
    gateway.fast.answer = gateway.strong.answer = FakeAnswer([ENGINE_ANSWER])
    address = re.sub(r"{\w+(:path)?}", "auto", path)
    body = {**BODIES, **PAGES}.get(path)
    key = {"no key": None, "wrong key": "sk-wrong"}.get(caller, caller)
    response = await gateway.ask(key, method, address, json=body)
    assert response.status_code == expect(path, caller), response.text
    if response.status_code >= 400:
        check_refusal(path, response)
    if response.status_code in (401, 403):
        assert not gateway.fast.requests
        assert not gateway.strong.requests
    assert (response.headers.get("www-authenticate") == "Bearer") == (response.status_code == 401)


def check_refusal(path: str, response: Any) -> None:
    """The error is one of the endpoint's dialect, and does not repeat the key."""
    body = response.json()
    kinds = {401: "authentication_error", 403: "permission_error"}
    if path in (Endpoint.MESSAGES, Endpoint.COUNT_TOKENS):
        assert body["type"] == "error"
        assert body["request_id"]
    else:
        assert body["error"]["code"]
    kind = kinds.get(response.status_code)
    assert kind is None or body["error"]["type"] == kind
    assert "sk-wrong" not in response.text


def test_the_matrix_is_complete() -> None:
    """Every endpoint has a body here, and every page with a body too."""
    assert BODIES.keys() == set(Endpoint)
    posts = {path for path, method in list_routes() if method == "POST"}
    # Nothing stored, and no batches: the body is not read.
    unread = ("/v1/responses/{", "/v1/files", "/v1/batches")
    empty = {path for path in posts if path.startswith(unread)}
    assert posts == BODIES.keys() | PAGES.keys() | empty


def test_a_page_without_a_ruling_stops_the_start() -> None:
    """No one can forget to say who may read a new page."""

    async def page(request: object) -> Any: ...

    with pytest.raises(KeyError):
        Guard(build_guarded().pipeline).page("/v1/new", page, ["GET"])


@pytest.mark.parametrize("path", ["/", "/nowhere", "/v1/nowhere", "/admin", "/admin/", "/docs"])
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "PATCH", "HEAD"])
async def test_what_is_not_there_is_hidden_from_strangers(path: str, method: str) -> None:
    """A path or method that does not exist is answered with 401 too."""
    gateway = build_guarded()
    assert (await gateway.ask(None, method, path)).status_code == 401
    assert (await gateway.ask("user", method, path)).status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/", "/v1//models", "//v1/models", "/v1/models/..", "/V1/models", "/health/x",
        "/health/../admin/state", "/%68ealth/", "/admin/state/", "/ready%2f..%2fadmin/state",
    ],
)  # fmt: skip
async def test_no_spelling_of_a_path_is_open(path: str) -> None:
    """The guard and the routes read the same path."""
    response = await build_guarded().ask(None, "GET", path)
    assert response.status_code == (200 if path == "/%68ealth/" else 401)
