"""`GET /openapi.json`: the API of this service; tools/openapi.py writes the file."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from importlib.resources import files

import orjson
from starlette.requests import Request
from starlette.responses import Response

MAX_AGE_S = 3600


def build_openapi_page() -> Callable[[Request], Awaitable[Response]]:
    """The endpoint. The document is read once, because it does not change while the Router runs."""
    body = orjson.dumps(orjson.loads(files(__package__).joinpath("openapi.json").read_bytes()))
    etag = f'"{hashlib.blake2b(body, digest_size=16).hexdigest()}"'
    headers = {"etag": etag, "cache-control": f"public, max-age={MAX_AGE_S}"}

    async def show_openapi(request: Request) -> Response:
        if etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(body, headers=headers, media_type="application/json")

    return show_openapi
