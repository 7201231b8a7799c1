"""Facts about the nodes of a cluster, with tasks that run in this process."""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import pytest
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from serve_app.deploy.cluster_facts import ClusterUnreachable, NodeFacts, connected, gather_facts

A, B, DEAD = (letter * 56 for letter in "abd")
"""Node ids of the length that Ray's have."""


class FakeRay:
    """Nodes that answer at once or never, each task on the node that it is bound to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.silent: set[str] = set()
        self.asked: list[str] = []
        self.listed = [
            {"NodeID": node, "NodeManagerAddress": f"10.0.0.{number}", "Alive": node != DEAD}
            for number, node in enumerate((A, B, DEAD))
        ]
        for name in ("wait", "get", "remote"):
            monkeypatch.setattr(ray, name, getattr(self, name))
        monkeypatch.setattr(ray, "nodes", lambda: self.listed)

    def remote(self, *, num_cpus: int) -> Callable[[Callable[..., Any]], FakeTask]:
        assert num_cpus == 0, "a full node answers too"
        return lambda work: FakeTask(self, work)

    def wait(
        self, refs: Sequence[FakeRef], *, num_returns: int, timeout: float
    ) -> tuple[list[FakeRef], list[FakeRef]]:
        assert (num_returns, timeout > 0) == (len(refs), True)
        late = [ref for ref in refs if ref.node in self.silent]
        return [ref for ref in refs if ref not in late], late

    def get(self, ref: FakeRef) -> Any:
        return ref.work()


class FakeTask:
    def __init__(self, cluster: FakeRay, work: Callable[..., Any]) -> None:
        self._cluster, self._work = cluster, work
        self._node = ""

    def options(self, *, scheduling_strategy: NodeAffinitySchedulingStrategy) -> FakeTask:
        assert not scheduling_strategy.soft
        self._node = scheduling_strategy.node_id
        return self

    def remote(self, *arguments: Any) -> FakeRef:
        self._cluster.asked.append(self._node)
        return FakeRef(self._node, lambda: self._work(*arguments))


class FakeRef:
    def __init__(self, node: str, work: Callable[[], Any]) -> None:
        self.node, self.work = node, work


def test_every_living_node_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its Python, the versions and variables that it has of the wanted ones, and the probe."""
    FakeRay(monkeypatch)
    monkeypatch.setenv("WANTED", "1")

    def probe(environment: Mapping[str, str]) -> str:
        return "probed with " + environment["WANTED"]

    facts = gather_facts(["ray", "no-such-package"], ["WANTED", "NO_SUCH_VARIABLE"], probe)
    assert [node.address for node in facts] == ["10.0.0.0", "10.0.0.1"]
    for node in facts:
        assert node.python == f"{sys.version_info.major}.{sys.version_info.minor}"
        assert node.versions == {"ray": version("ray")}
        assert node.environment == {"WANTED": "1"}
        assert node.found == "probed with 1"
        assert abs(node.ahead_s) < 60


def test_a_silent_node_has_an_address_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that does not answer in time is reported, not left out."""
    FakeRay(monkeypatch).silent = {B}
    facts = gather_facts([], [], lambda environment: 7)
    assert {node.address: node.found for node in facts} == {"10.0.0.0": 7, "10.0.0.1": None}
    assert NodeFacts("10.0.0.1") in facts


def test_the_quickest_reading_of_a_clock_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the way there and back is taken off, and a slow reading is not used."""
    cluster = FakeRay(monkeypatch)
    cluster.listed = cluster.listed[:1]
    # Sent, read on the node, back: ways of 4, 1 and 6 seconds to a clock that is 100 s ahead.
    moments = [0.0, 103.0, 4.0, 10.0, 110.5, 11.0, 20.0, 121.0, 26.0]
    monkeypatch.setattr("time.time", lambda: moments.pop(0))
    (node,) = gather_facts([], [], lambda environment: None)
    assert node.ahead_s == 100.0
    assert cluster.asked == [A] * 4


@pytest.fixture
def _ray(monkeypatch: pytest.MonkeyPatch, calls: list[str]) -> None:
    """A Ray that notes the connections."""

    def init(**options: Any) -> None:
        assert options["namespace"] == "serve"
        assert not options["log_to_driver"]
        assert options["logging_level"] == logging.ERROR
        calls.append("init " + options["address"])

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: calls.append("shutdown"))


@pytest.fixture
def calls() -> list[str]:
    return []


@pytest.mark.usefixtures("_ray")
@pytest.mark.parametrize("address", ["auto", "ray://head", "host:http"])
def test_an_address_without_a_port_is_rays_affair(address: str, calls: list[str]) -> None:
    """The connection ends with the block, whatever happens in the block."""
    with pytest.raises(KeyError), connected(address):
        raise KeyError
    assert calls == [f"init {address}", "shutdown"]


@pytest.mark.usefixtures("_ray")
def test_a_cluster_that_listens_is_connected_to(calls: list[str]) -> None:
    """A port that answers the knock is handed to Ray."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with connected(address):
            assert calls == [f"init {address}"]
    assert calls == [f"init {address}", "shutdown"]


@pytest.mark.usefixtures("_ray")
def test_a_closed_port_is_no_cluster(calls: list[str]) -> None:
    """The error comes at once, because Ray would try for minutes."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    for address in (f"127.0.0.1:{port}", "127.0.0.1:99999", f"[::1]:{port}"):
        with pytest.raises(ClusterUnreachable, match="no Ray cluster answers"), connected(address):
            pass
    assert calls == []


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConnectionError("refused\nby a long traceback"), "refused"),
        (RuntimeError(), "RuntimeError"),
        (ValueError("bad address"), "bad address"),
    ],
)
def test_a_cluster_that_refuses_is_unreachable(
    monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    """The first line of Ray's message is the error, or its class where it has no message."""

    def init(**options: Any) -> None:
        raise error

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(ClusterUnreachable) as caught, connected("auto"):
        pass
    assert str(caught.value) == message
