"""Facts about each node of a running cluster, read by a task on that node."""

from __future__ import annotations

import logging
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Generic, TypeVar

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from serve_app.config.reader import process_environment

TASK_S_MAX = 60.0
"""The time for a node's answer: starting a first worker takes long on a busy node."""


KNOCK_S_MAX = 5.0

T = TypeVar("T")


class ClusterUnreachable(Exception):
    """There is no cluster, or the cluster refuses the connection."""


@dataclass(frozen=True, slots=True)
class NodeFacts(Generic[T]):
    """One node: its address, and its facts; a fact is None if the node did not answer.

    `environment` is the environment of its Ray workers, `ahead_s` is how far its clock is ahead of
    ours, `found` is the result of the probe on the node.
    """

    address: str
    python: str | None = None
    versions: dict[str, str] | None = None
    environment: dict[str, str] | None = None
    ahead_s: float = 0.0
    found: T | None = None


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Connect to a running cluster, as a driver that starts no processes.

    Raises:
        ClusterUnreachable: there is no cluster.
    """
    _knock(address)
    try:
        ray.init(
            address=address, namespace="serve", log_to_driver=False, logging_level=logging.ERROR
        )
    except (OSError, RuntimeError, ValueError, RayError) as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise ClusterUnreachable(first) from None
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Fail early, because Ray itself would try for minutes."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_S_MAX).close()
    except (OSError, OverflowError):
        raise ClusterUnreachable("no Ray cluster answers there") from None


def gather_facts(
    packages: Sequence[str], variables: Sequence[str], probe: Callable[[Mapping[str, str]], T]
) -> list[NodeFacts[T]]:
    """The facts of every living node, with the versions and environment variables of interest.

    `probe` runs on each of them, with the whole environment of its Ray workers.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    asked = {}
    for node in nodes:
        affinity = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        task = ray.remote(num_cpus=0)(_look).options(scheduling_strategy=affinity)
        asked[task.remote(list(packages), list(variables), probe)] = node
    ready, late = ray.wait(list(asked), num_returns=len(asked), timeout=TASK_S_MAX)
    facts: list[NodeFacts[T]] = [NodeFacts(asked[ref]["NodeManagerAddress"]) for ref in late]
    for ref in ready:
        python, versions, environment, found = ray.get(ref)
        address, ahead_s = asked[ref]["NodeManagerAddress"], _measure_clock(asked[ref])
        facts.append(NodeFacts(address, python, versions, environment, ahead_s, found))
    return facts


def _look(
    packages: list[str], variables: list[str], probe: Callable[[Mapping[str, str]], Any]
) -> tuple[str, dict[str, str], dict[str, str], Any]:
    versions = {}
    for name in packages:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    known = process_environment()
    environment = {name: known[name] for name in variables if name in known}
    return ".".join(map(str, sys.version_info[:2])), versions, environment, probe(known)


def _read_clock() -> float:
    return time.time()


def _measure_clock(node: dict[str, str]) -> float:
    """The quickest of several readings, whose error is at most half of its own duration."""
    affinity = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    task = ray.remote(num_cpus=0)(_read_clock).options(scheduling_strategy=affinity)
    readings = []
    for _ in range(3):
        sent = time.time()
        there = ray.get(task.remote())
        back = time.time()
        readings.append((back - sent, there - (sent + back) / 2))
    return float(min(readings)[1])
