"""`/openapi.json`: what it says is what the service takes, and the file is not stale."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from importlib.util import find_spec
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from serve_app.core.call import Endpoint
from serve_app.gateway.browser import BROWSER_PATHS
from serve_app.gateway.guard import OPEN_PATHS
from tests.gateway.conftest import Gateway

BYTES_MAX = 170_000


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    text = files("serve_app.gateway").joinpath("openapi.json").read_text()
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def referenced(schema: object) -> set[str]:
    return set(re.findall(r'"\$ref": "#/components/([^"]+)"', json.dumps(schema)))


async def test_the_document_is_served_with_a_tag(gateway: Gateway, document: object) -> None:
    """A client that has the document already is not sent it again."""
    response = await gateway.client.get("/openapi.json")
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.headers["cache-control"] == "public, max-age=3600"
    assert response.json() == document
    assert len(response.content) < BYTES_MAX
    tag = response.headers["etag"]
    again = await gateway.client.get("/openapi.json", headers={"if-none-match": tag})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)


async def test_every_path_of_the_document_exists(
    gateway: Gateway, document: dict[str, Any]
) -> None:
    """Each path takes the documented methods, and no other."""
    for path, methods in document["paths"].items():
        response = await gateway.client.request("PATCH", re.sub(r"{\w+}", "auto", path))
        assert response.status_code == 405, path
        allowed = set(response.headers["allow"].lower().split(", ")) - {"head"}
        assert allowed == methods.keys(), path


def test_every_path_that_exists_is_in_the_document(
    gateway: Gateway, document: dict[str, Any]
) -> None:
    """A new endpoint comes with its documentation. The pages for people are no part of the API."""
    app: Any = gateway.app
    pages = {re.sub(r":path}$", "}", route.path) for route in app._pages.routes}
    assert pages > BROWSER_PATHS
    pages -= BROWSER_PATHS
    assert pages == document["paths"].keys()
    assert {endpoint.value for endpoint in Endpoint} <= pages


def test_the_document_has_no_loose_ends(document: dict[str, Any]) -> None:
    """Every reference has a target, every component is used, and every schema is one."""
    components = {
        f"{kind}/{name}": component
        for kind, named in document["components"].items()
        if kind != "securitySchemes"
        for name, component in named.items()
    }
    used = referenced(document["paths"])
    for _ in components:
        used |= {name for user in used for name in referenced(components[user])}
    assert used == components.keys()
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def test_open_pages_are_documented_as_open(document: dict[str, Any]) -> None:
    """All others take a key, in either header; only pages of admins always need one."""
    schemes = document["components"]["securitySchemes"].keys()
    optional = [{}, *({scheme: []} for scheme in schemes)]
    for path, methods in document["paths"].items():
        for operation in methods.values():
            security = operation.get("security", document["security"])
            if path in OPEN_PATHS:
                assert security == []
            else:
                assert security == optional[path.startswith("/admin/") :]
                assert {"401", "403", "503"} <= operation["responses"].keys()


@pytest.mark.skipif(find_spec("vllm") is None, reason="the bodies are vLLM's")
def test_the_document_is_what_the_generator_writes() -> None:
    """An upgrade of vLLM or a new field changes the document in the same commit."""
    import openapi  # it imports vLLM, which takes ten seconds

    assert openapi.render(openapi.build_document()) == openapi.DOCUMENT.read_text(), "make openapi"
