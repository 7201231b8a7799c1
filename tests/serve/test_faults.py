"""Hard faults: killed replicas, killed Routers, a killed supervisor. Without HAProxy, for once."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

import httpx
import psutil
import pytest
import ray

from tests.serve.conftest import run_dir
from tests.serve.leases import HeldLease, leased
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


def test_a_killed_engine_costs_no_more_than_the_calls_in_flight(service: Service) -> None:
    """Until its replica is replaced, the other tier answers `auto` calls."""
    (replica,) = service.replica_processes("tier-fast")
    (engine,) = [each for each in replica.children(recursive=True) if is_engine(each)]
    clients = 8
    stop = threading.Event()

    def keep_asking() -> Counter[tuple[int, str]]:
        answers: Counter[tuple[int, str]] = Counter()
        while not stop.is_set():
            response = service.chat(model="auto")
            answers[response.status_code, response.headers.get("x-route-tier", "")] += 1
        return answers

    with ThreadPoolExecutor(clients) as pool:
        asking = [pool.submit(keep_asking) for _ in range(clients)]
        try:
            wait_for(
                lambda: service.ongoing("tier-fast") > 0, timeout_s=10, what="calls are in flight"
            )
            engine.kill()
            wait_for(
                lambda: replica.pid not in pids(service.replica_processes("tier-fast")),
                timeout_s=120,
                what="the replica is given up",
            )
        finally:
            stop.set()
    answers = sum((each.result() for each in asking), Counter())
    failed = sum(count for (status, _), count in answers.items() if status != 200)
    assert failed <= clients, answers
    assert answers[200, "strong"] > clients, answers
    wait_for(
        lambda: service.chat(model="fast").status_code == 200,
        timeout_s=180,
        what="the replaced replica answers",
    )


def test_a_dead_engine_is_said_at_its_door_and_its_replica_is_replaced(service: Service) -> None:
    """Within two seconds, and within one period of Ray's health checks (10 s) with its margin."""
    (replica,) = service.replica_processes("tier-fast")
    (engine,) = (
        each for each in replica.children(True) if "EngineCore" in " ".join(each.cmdline())
    )
    with leased("tier-fast") as lease:
        assert lease.post("/serve-app/load").status_code == 200
        engine.kill()
        killed_at = time.monotonic()
        wait_for(
            lambda: refused(lease) == "engine", timeout_s=2, what="the door says that it is dead"
        )
    wait_for(lambda: not replica.is_running(), timeout_s=40, what="the replica is replaced")
    assert time.monotonic() - killed_at < 25
    wait_for(
        lambda: service.chat(model="fast").status_code == 200,
        timeout_s=180,
        what="the replaced replica answers",
    )


def test_a_draining_replica_says_so(service: Service) -> None:
    """What Ray knows of the actor alone: this test pins the private names that tell it."""
    (replica,) = service.replica_processes("tier-fast")
    (actor,) = service.replicas("tier-fast")
    with leased("tier-fast") as lease:
        assert lease.post("/serve-app/load").status_code == 200
        drained = actor.perform_graceful_shutdown.remote()
        wait_for(lambda: refused(lease) == "draining", timeout_s=5, what="the replica drains")
        lease.post("/tokenize", b'{"prompt": "Hello"}')
        # The refusal has ended the lease, so nothing holds the replica any more.
        ray.get(drained, timeout=20)
    replica.kill()
    wait_for(
        lambda: service.chat(model="fast").status_code == 200,
        timeout_s=180,
        what="the replaced replica answers",
    )


def refused(lease: HeldLease) -> str | None:
    return lease.post("/serve-app/load").headers.get("x-lease-refused")


def is_engine(process: psutil.Process) -> bool:
    return "VLLM::EngineCore" in " ".join(process.cmdline())


def pids(processes: list[psutil.Process]) -> set[int]:
    return {process.pid for process in processes}


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
