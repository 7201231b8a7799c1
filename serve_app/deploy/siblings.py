"""Asks all Router replicas of the application, this one included."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Sequence
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle

from serve_app.config.serve_file import ROUTER_NAME

logger = logging.getLogger("ray.serve")


class SiblingRouters:
    """The Router replicas as Serve knows them at each question."""

    def __init__(self, app_name: str) -> None:
        self._app_name = app_name
        self._handle: DeploymentHandle[Any] | None = None

    async def ask(self, method: str) -> Sequence[Awaitable[Any]]:
        """One answer of each running replica, still on its way.

        Ray's `results_async` gives up all answers when one is late, so each answer is awaited by
        itself here. Serve lets such a call pass a Router that is full.
        """
        # `_fetch_replica_results_async` and `get_async` are what `results_async` is made of.
        response = self._find().broadcast(method)
        return [result.get_async() for result in await response._fetch_replica_results_async()]

    def _find(self) -> DeploymentHandle[Any]:
        """The handle, made when somebody asks for the first time: it costs a Router a connection
        to each other Router, which nobody needs who does not watch."""
        if self._handle is None:
            self._handle = serve.get_deployment_handle(
                ROUTER_NAME, self._app_name, _check_exists=False
            )
        return self._handle
