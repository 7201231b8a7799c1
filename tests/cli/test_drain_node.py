"""What `serve-app drain-node` sees of a Ray node, and how long it waits."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from serve_app.cli.drain_node import find_node_id, wait_until_idle

RAYLET = ["/env/ray/core/src/ray/raylet/raylet", "--node_id=4f1b", "--redis_port=6379"]
REPLICA = ["ray::ServeReplica:llm:tier-strong"]
CARRIERS = [
    REPLICA,
    ["ray::HAProxyManager"],
    ["ray::ProxyActor"],
    ["/env/bin/haproxy", "-f", "/tmp/haproxy.cfg"],
]
OTHERS = [["ray::IDLE"], ["ray::ServeController"], ["/sbin/init", "--node_id=no"], []]


class FakeNode:
    """A node whose last carrier of calls is gone after some looks."""

    def __init__(self, looks: int, carrier: list[str]) -> None:
        self.looks = looks
        self.carrier = carrier

    def commands(self) -> Iterable[list[str]]:
        self.looks -= 1
        return [RAYLET, *OTHERS, self.carrier] if self.looks >= 0 else [RAYLET, *OTHERS]


def test_the_node_is_that_of_the_raylet() -> None:
    """Other processes with such an argument do not count."""
    assert find_node_id([*OTHERS, RAYLET]) == "4f1b"
    assert find_node_id(OTHERS) is None


@pytest.mark.parametrize("carrier", CARRIERS)
def test_it_waits_until_the_last_has_ended(carrier: list[str]) -> None:
    """And no longer."""
    node = FakeNode(looks=3, carrier=carrier)
    assert wait_until_idle(node.commands, wait_s=60, poll_s=0)
    assert node.looks == -1


def test_it_gives_up_after_the_time() -> None:
    """A replica that never ends does not hold up the node for ever."""
    node = FakeNode(looks=10**9, carrier=REPLICA)
    assert not wait_until_idle(node.commands, wait_s=0, poll_s=0)
