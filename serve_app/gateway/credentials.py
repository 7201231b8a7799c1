"""Reads what a request brings to show who asks."""

from __future__ import annotations

from starlette.types import Scope

from serve_app.core.caller import Credentials
from serve_app.core.headers import (
    API_KEY_HEADER,
    AUTHORIZATION_HEADER,
    CERTIFICATE_HEADER,
    FORWARDED_FOR_HEADER,
)


def read_credentials(scope: Scope) -> Credentials:
    """The credentials of a request; the first value counts if a header is there twice.

    Every proxy may add a line of `x-forwarded-for`, so all of its lines count, in their order.
    """
    headers = dict(reversed(scope["headers"]))
    forwarded = [value for name, value in scope["headers"] if name == FORWARDED_FOR_HEADER]
    client = scope.get("client")
    return Credentials(
        headers.get(AUTHORIZATION_HEADER),
        headers.get(API_KEY_HEADER),
        None if client is None else client[0],
        b",".join(forwarded) if forwarded else None,
        headers.get(CERTIFICATE_HEADER),
    )
