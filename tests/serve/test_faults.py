"""Hard faults: killed replicas, killed Routers, a killed supervisor. Without HAProxy, for once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager

import httpx
import pytest

from tests.serve.conftest import run_dir
from tests.serve.service import ROOT, Service, running_service, wait_for

pytestmark = pytest.mark.serve


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The embedded default behind Serve's own proxy."""
    with running_service(
        ROOT / "configs" / "local.yaml", run_dir(tmp_path_factory), "--no-haproxy"
    ) as running:
        yield running


def long_stream(service: Service, model: str) -> AbstractContextManager[httpx.Response]:
    body = {
        "model": model,
        "stream": True,
        "max_tokens": 7000,
        "ignore_eos": True,
        "messages": [{"role": "user", "content": "Hello"}],
    }
    return httpx.stream("POST", f"{service.base_url}/v1/chat/completions", json=body, timeout=60)


def test_it_listens_on_the_loopback_address_only(service: Service) -> None:
    """The public port of the local config is not public."""
    port = int(service.base_url.rsplit(":", 1)[1])
    addresses = {
        connection.laddr.ip
        for process in service.processes()
        for connection in process.net_connections("tcp")
        if connection.status == "LISTEN" and connection.laddr.port == port
    }
    assert addresses == {"127.0.0.1"}


def test_a_killed_replica_takes_its_engine_along_and_is_replaced(service: Service) -> None:
    """`kill -9` of a replica leaves no engine process, and the tier answers again."""
    engines = service.engine_processes()
    assert len(engines) >= 4
    (replica,) = service.replica_processes("tier-fast")
    with long_stream(service, "fast") as response:
        lines = response.iter_lines()
        next(lines)
        replica.kill()
        rest = list(lines)
    assert '"error"' in rest[-2] or '"error"' in rest[-1]
    wait_for(
        lambda: len(service.engine_processes() & engines) == 2,
        timeout_s=20,
        what="the engine of the killed replica is gone",
    )
    assert service.chat(model="strong").status_code == 200
    wait_for(
        lambda: service.chat(model="fast").status_code == 200,
        timeout_s=180,
        what="the replaced replica answers",
    )


def test_a_killed_router_leaks_nothing(service: Service) -> None:
    """When the Router dies in the middle of a stream, the engine stops and Ray counts 0 again."""
    (router,) = service.replica_processes("Router")
    with long_stream(service, "strong") as response:
        lines = response.iter_lines()
        next(lines)
        router.kill()
        with pytest.raises(httpx.HTTPError):
            list(lines)
    wait_for(
        lambda: service.ongoing("tier-strong") == 0, timeout_s=30, what="the lease is free again"
    )
    wait_for(lambda: _answers(service), timeout_s=120, what="a new Router answers")


def _answers(service: Service) -> bool:
    try:
        return service.chat(model="strong").status_code == 200
    except httpx.HTTPError:
        return False
