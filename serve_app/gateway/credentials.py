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
    """The credentials of a request; the first value counts if a header is there twice."""
    headers = dict(reversed(scope["headers"]))
    client = scope.get("client")
    return Credentials(
        headers.get(AUTHORIZATION_HEADER),
        headers.get(API_KEY_HEADER),
        None if client is None else client[0],
        headers.get(FORWARDED_FOR_HEADER),
        headers.get(CERTIFICATE_HEADER),
    )
