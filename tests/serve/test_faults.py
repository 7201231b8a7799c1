"""Hard faults: killed replicas, engines and Routers. Without HAProxy, for once.

A replica starts for most of a minute, and only one of the two cores is busy with it. So a test
leaves its tier broken, and the next test uses the other tier. `both` waits until every tier answers
again, and so does the end of the module.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress

import httpx
import psutil
import pytest
import ray
import yaml
from ray import serve
from ray.serve._private.common import ReplicaState

from tests.routing.prompts import HARD_EN
from tests.serve.conftest import run_dir
from tests.serve.leases import leased, refused
from tests.serve.service import ROOT, Service, running_service, wait_for

pytestmark = pytest.mark.serve

STUCK_S = 10.0
SEEN_S = 2.0
"""Within this time a dead engine is seen at its door and by Serve's controller. The controller gets
twice the time, because a busy machine delays it."""

HARD = [{"role": "user", "content": HARD_EN[0]}]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The embedded default behind Serve's own proxy, whose engines are soon taken for stuck."""
    document = yaml.safe_load((ROOT / "configs" / "local.yaml").read_text())
    for tier in document["applications"][0]["args"]["tiers"]:
        tier["engine_watch"] = {"stuck_s": STUCK_S, "idle_probe_s": 5}
    directory = run_dir(tmp_path_factory)
    config = directory.parent / "faults.yaml"
    config.write_text(yaml.safe_dump(document))
    with running_service(config, directory, "--no-haproxy") as running:
        yield running
        wait_replaced(running)


@pytest.fixture
def both(service: Service) -> Service:
    """The service, when both tiers answer: what a test before has broken has been replaced."""
    wait_replaced(service)
    return service


def wait_replaced(service: Service, *tiers: str) -> None:
    for tier in tiers or ("fast", "strong"):
        wait_for(
            lambda tier=tier: service.chat(model=tier).status_code == 200,
            timeout_s=180,
            what=f"a replica of {tier} answers",
        )


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


def test_a_killed_replica_takes_its_engine_along(both: Service) -> None:
    """`kill -9` of a replica leaves no engine process, and the other tier does not notice."""
    (replica,) = both.replica_processes("tier-fast")
    engines = both.engine_processes()
    own = engines & pids(replica.children(recursive=True))
    assert own < engines
    assert own
    with long_stream(both, "fast") as response:
        lines = response.iter_lines()
        next(lines)
        replica.kill()
        rest = list(lines)
    assert '"error"' in rest[-2] or '"error"' in rest[-1]
    wait_for(
        lambda: not both.engine_processes() & own,
        timeout_s=20,
        what="the engine of the killed replica is gone",
    )
    assert engines - own <= both.engine_processes()
    assert both.chat(model="strong").status_code == 200


def test_a_dead_engine_is_seen_within_two_seconds(service: Service) -> None:
    """Its door says so, Serve no longer counts its replica, and a new replica starts."""
    (replica,) = service.replica_processes("tier-strong")
    with leased("tier-strong") as lease, long_stream(service, "strong") as response:
        lines = response.iter_lines()
        next(lines)
        assert lease.post("/serve-app/load").status_code == 200
        engine_of(replica).kill()
        wait_for(
            lambda: refused(lease) == "engine", timeout_s=SEEN_S, what="the door says it is dead"
        )
        wait_for(lambda: is_replaced("strong"), timeout_s=2 * SEEN_S, what="a replica starts")
        assert any('"error"' in line for line in lines)
    wait_for(lambda: not replica.is_running(), timeout_s=10, what="the replica is gone")


def test_a_killed_engine_costs_no_more_than_the_calls_in_flight(both: Service) -> None:
    """Until its replica is replaced, the other tier answers `auto` calls."""
    (replica,) = both.replica_processes("tier-fast")
    engine = engine_of(replica)
    clients = 8
    stop = threading.Event()

    def keep_asking() -> Counter[tuple[int, str]]:
        answers: Counter[tuple[int, str]] = Counter()
        while not stop.is_set():
            response = both.chat(model="auto")
            answers[response.status_code, response.headers.get("x-route-tier", "")] += 1
        return answers

    with ThreadPoolExecutor(clients) as pool:
        asking = [pool.submit(keep_asking) for _ in range(clients)]
        try:
            wait_for(
                lambda: both.ongoing("tier-fast") > 0, timeout_s=10, what="calls are in flight"
            )
            engine.kill()
            wait_for(
                lambda: replica.pid not in pids(both.replica_processes("tier-fast")),
                timeout_s=120,
                what="the replica is given up",
            )
        finally:
            stop.set()
    answers = sum((each.result() for each in asking), Counter())
    failed = sum(count for (status, _), count in answers.items() if status != 200)
    assert failed <= clients, answers
    assert answers[200, "strong"] > clients, answers


def test_an_engine_that_hangs_is_killed_and_its_replica_is_replaced(service: Service) -> None:
    """One that stood still for a moment only is left alone, and so are its answers."""
    wait_replaced(service, "fast")
    (replica,) = service.replica_processes("tier-fast")
    engine = engine_of(replica)
    with stopped(engine), ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(service.chat, model="fast")
        with pytest.raises(TimeoutError):
            waiting.result(STUCK_S / 3)
        engine.resume()
        assert waiting.result(30).status_code == 200
    assert service.replica_processes("tier-fast") == [replica]
    with long_stream(service, "fast") as response:
        lines = response.iter_lines()
        next(lines)
        with stopped(engine):
            wait_for(lambda: is_replaced("fast"), timeout_s=STUCK_S + 10, what="a replica starts")
            assert any('"error"' in line for line in lines)
            wait_for(lambda: not engine.is_running(), timeout_s=10, what="the engine is gone")


def test_a_draining_replica_says_so(service: Service) -> None:
    """What Ray knows of the actor alone: this test pins the private names that tell it."""
    (replica,) = service.replica_processes("tier-strong")
    (actor,) = service.replicas("tier-strong")
    with leased("tier-strong") as lease:
        assert lease.post("/serve-app/load").status_code == 200
        drained = actor.perform_graceful_shutdown.remote()
        wait_for(lambda: refused(lease) == "draining", timeout_s=5, what="the replica drains")
        lease.post("/tokenize", b'{"prompt": "Hello"}')
        # The refusal has ended the lease, so nothing holds the replica any more.
        ray.get(drained, timeout=20)
    replica.kill()


def test_a_killed_tier_is_stood_in_for(both: Service) -> None:
    """Auto is answered by the fast tier, and by the strong one again when it is back."""
    assert both.chat(model="auto", messages=HARD).headers["x-route-tier"] == "strong"
    (replica,) = both.replica_processes("tier-strong")
    replica.kill()
    for _ in range(20):
        answer = both.chat(model="auto", messages=HARD)
        assert answer.status_code == 200
        assert answer.headers["x-route-tier"] == "fast"
        assert answer.headers["x-route-reason"] == "fallback"
    explained = httpx.post(f"{both.base_url}/v1/route", json={"messages": HARD}, timeout=30)
    assert explained.json()["load"]["strong"]["down"] is True
    assert both.chat(model="strong", timeout_s=120).status_code in (200, 503)
    wait_for(
        lambda: both.chat(model="auto", messages=HARD).headers["x-route-reason"] == "complex",
        timeout_s=180,
        what="the strong tier answers again",
    )


def is_replaced(tier: str) -> bool:
    """Whether Serve's controller has given the tier's replica up, and starts another one."""
    deployment = serve.status().applications["llm"].deployments[f"tier-{tier}"]
    return ReplicaState.STARTING in deployment.replica_states


@contextmanager
def stopped(process: psutil.Process) -> Iterator[None]:
    """Stop a process as the kernel would; the block may let it go on."""
    process.suspend()
    try:
        yield
    finally:
        with suppress(psutil.Error):
            process.resume()


def engine_of(replica: psutil.Process) -> psutil.Process:
    (engine,) = (each for each in replica.children(recursive=True) if is_engine(each))
    return engine


def is_engine(process: psutil.Process) -> bool:
    return "VLLM::EngineCore" in " ".join(process.cmdline())


def pids(processes: list[psutil.Process]) -> set[int]:
    return {process.pid for process in processes}
