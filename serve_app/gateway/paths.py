"""The paths of requests, wherever the application is mounted."""

from __future__ import annotations

from starlette.types import Scope


def route_path(scope: Scope) -> str:
    """The path below the application's mount point, without a slash at its end.

    ASGI defines that `path` includes `root_path`; Serve puts the application's `route_prefix`
    there.
    """
    path: str = scope["path"].removeprefix(scope.get("root_path", ""))
    return path.removesuffix("/") or "/"
