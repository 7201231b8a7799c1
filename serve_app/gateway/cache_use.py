"""Reads what a client lets the cache of answers do."""

from __future__ import annotations

from starlette.types import Scope

from serve_app.core.call import CacheUse
from serve_app.core.errors import InvalidField
from serve_app.core.headers import CACHE_CONTROL_HEADER, CACHE_HEADER

USE = b"use"


def read_cache_use(scope: Scope) -> CacheUse:
    """The strictest of what the request's headers say.

    Raises:
        InvalidField: `x-cache` has another value than `use`.
    """
    directives: set[bytes] = set()
    wanted = False
    for name, value in scope["headers"]:
        if name == CACHE_CONTROL_HEADER:
            directives.update(part.strip().lower() for part in value.split(b","))
        elif name == CACHE_HEADER:
            if value.strip().lower() != USE:
                raise InvalidField(CACHE_HEADER.decode(), USE.decode())
            wanted = True
    if b"no-store" in directives:
        return CacheUse.NONE
    if b"no-cache" in directives:
        return CacheUse.REFRESH
    return CacheUse.WANTED if wanted else CacheUse.DEFAULT
