"""A running service as its operator's commands reach it: Serve's REST API, and the Routers."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
from ray import serve
from ray.exceptions import RayError

from serve_app.config.dashboard import AUTH_TOKEN
from serve_app.config.reader import IMPORT_PATH
from serve_app.config.serve_file import ROUTER_NAME
from serve_app.deploy.cluster_facts import ClusterUnreachable, connected

APPLICATIONS = "/api/serve/applications/"
REST_S = 30.0
ROUTERS_S = 10.0
POLL_S = 0.3

Document = dict[str, Any]


class ServiceNotFound(Exception):
    """No service of this kind runs there, or it cannot be asked; the message says why."""


class ChangeRefused(Exception):
    """Serve or a Router did not take the change; the message says why."""


class LiveService:
    """The application of a running cluster."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def read(self) -> Document:
        """What Serve says of the whole cluster.

        Raises:
            ServiceNotFound: the dashboard does not answer.
        """
        try:
            answer = self._http.get(APPLICATIONS)
            answer.raise_for_status()
            document: Document = answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise ServiceNotFound(
                f"Ray's dashboard at {self._http.base_url} does not answer: {_explain(error)}"
            ) from None
        return document

    def find(self) -> Document:
        """What Serve says of the application.

        Raises:
            ServiceNotFound: there is none.
        """
        for application in self.read()["applications"].values():
            config = application.get("deployed_app_config") or {}
            if config.get("import_path") == IMPORT_PATH:
                return dict(application)
        raise ServiceNotFound(f"no application with import_path {IMPORT_PATH} runs there")

    def configure(self, user_config: Mapping[str, Any], *, wait_s: float) -> None:
        """Give the Routers a new `user_config`; everything else stays as it is deployed.

        Raises:
            ServiceNotFound: there is no application.
            ChangeRefused: Serve did not take the config, or not all Routers have it in time.
        """
        everything, before = self.read(), self.find()
        configs = [
            _with_user_config(application["deployed_app_config"], user_config)
            if application["name"] == before["name"]
            else application["deployed_app_config"]
            for application in everything["applications"].values()
            if application.get("deployed_app_config")
        ]
        kept = {key: everything[key] for key in ("proxy_location", "http_options")}
        body = {**{key: value for key, value in kept.items() if value}, "applications": configs}
        answer = self._http.put(APPLICATIONS, json=body)
        if not answer.is_success:
            raise ChangeRefused(f"Serve refused it: {answer.text.strip()[:500]}")
        self._wait(lambda found: _is_newer(found, before), wait_s)

    def _wait(self, done: Callable[[Document], bool], wait_s: float) -> None:
        deadline = time.monotonic() + wait_s
        while not done(found := self.find()):
            if time.monotonic() >= deadline:
                raise ChangeRefused(
                    f"the application is {found['status']} after {wait_s:g} s: "
                    f"{found['message'].strip() or 'Serve gives no reason'}"
                )
            time.sleep(POLL_S)


def _is_newer(found: Document, before: Document) -> bool:
    newer: bool = found["last_deployed_time_s"] > before["last_deployed_time_s"]
    router = found["deployments"].get(ROUTER_NAME, {})
    return newer and (found["status"], router.get("status")) == ("RUNNING", "HEALTHY")


def read_user_config(application: Document) -> Document:
    """The Routers' `user_config` as it is deployed."""
    for deployment in application["deployed_app_config"].get("deployments", ()):
        if deployment["name"] == ROUTER_NAME:
            return dict(deployment.get("user_config") or {})
    return {}


def _with_user_config(config: Document, user_config: Mapping[str, Any]) -> Document:
    changed = copy.deepcopy(config)
    deployments = changed.setdefault("deployments", [])
    router = next((one for one in deployments if one["name"] == ROUTER_NAME), None)
    if router is None:
        router = {"name": ROUTER_NAME}
        deployments.append(router)
    router["user_config"] = dict(user_config)
    return changed


@contextmanager
def open_live(dashboard: str) -> Iterator[LiveService]:
    """The service behind a dashboard."""
    headers = {}
    if AUTH_TOKEN.exists():
        headers["Authorization"] = f"Bearer {AUTH_TOKEN.read_text().strip()}"
    with httpx.Client(base_url=dashboard, headers=headers, timeout=REST_S) as http:
        yield LiveService(http)


@contextmanager
def open_cluster(address: str) -> Iterator[None]:
    """A connection to the Ray cluster.

    Raises:
        ServiceNotFound: the cluster cannot be reached from here.
    """
    # It tells a person about its own connections.
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    with ExitStack() as stack:
        try:
            stack.enter_context(connected(address))
        except ClusterUnreachable as error:
            raise ServiceNotFound(f"the cluster cannot be reached: {error}") from None
        yield


def ask_routers(application: str, method: str) -> Sequence[Any]:
    """The answers of all Routers to one method, on an open connection.

    Raises:
        ServiceNotFound: a Router does not answer.
    """
    try:
        handle = serve.get_deployment_handle(ROUTER_NAME, application)
        return list(handle.broadcast(method).results(timeout_s=ROUTERS_S))
    except (RayError, OSError, RuntimeError, ValueError) as error:
        raise ServiceNotFound(f"the Routers do not answer: {_explain(error)}") from None


def _explain(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
