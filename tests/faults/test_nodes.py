"""Several machines with real Ray: cut, slow and stopped ones, and a head that goes.

The tiers' engines are simulated, because faults of machines and networks do not reach them; the
last test has real ones. Each test leaves the cluster whole.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import pytest

from tests.faults.network import why_not
from tests.faults.nodes import (
    FAST,
    HEAD,
    STRONG,
    Callers,
    NodeCluster,
    Told,
    count,
    local_config,
    node_cluster,
    simulated_config,
)
from tests.serve.service import wait_for

pytestmark = [
    pytest.mark.serve,
    pytest.mark.faults,
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "it can be had"),
]

TOKENS = 60
"""A simulated answer of three seconds."""
WARM_S = 6.0
NOTICED_S = 20.0
"""Within so much time of a cut every connection to the machine is broken: 15 s, and probes."""
LONG_S = 90.0
"""Longer than Ray's GCS waits for a node that does not answer its health checks."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeCluster]:
    """A head without a Router, and a machine with a Router and a tier, twice."""
    with node_cluster(tmp_path_factory.mktemp("nodes")) as started:
        yield started


@pytest.fixture(scope="module")
def simulated(cluster: NodeCluster) -> NodeCluster:
    """The cluster with simulated tiers on it."""
    cluster.deploy(simulated_config())
    return cluster


class Traffic:
    """Clients of one public address: of `auto`, and of each tier by its name."""

    def __init__(self, url: str, clients: int = 3) -> None:
        self.of = {
            model: Callers(url, model, clients=clients, tokens=TOKENS)
            for model in ("auto", FAST, STRONG)
        }

    def __enter__(self) -> Traffic:
        for callers in self.of.values():
            callers.__enter__()
        time.sleep(WARM_S)
        return self

    def __exit__(self, *_: object) -> None:
        for callers in self.of.values():
            callers.__exit__()

    @property
    def told(self) -> list[Told]:
        """Every call so far."""
        return [told for callers in self.of.values() for told in callers.told]

    def show(self, what: str, moment: float) -> None:
        """Print what became of the calls after a moment, for the table of docs/guarantees.md."""
        for model, callers in self.of.items():
            flying = callers.across(moment)
            print(f"\n{what}, {model}: in flight {render(flying)}")
            print(f"{what}, {model}: later {render(callers.since(moment))}")


def render(told: Sequence[Told]) -> str:
    """The outcomes, and the longest time to one."""
    longest = max((each.lasted_s for each in told), default=0.0)
    counted = ", ".join(f"{number} {' '.join(key)}" for key, number in count(told).items())
    return f"{counted or 'none'}; longest {longest:.1f} s"


def outcomes(told: Sequence[Told]) -> set[str]:
    """The kinds of outcomes among these calls."""
    return {each.outcome for each in told}


def assert_ended(traffic: Traffic, moment: float) -> None:
    """Each answer that had begun at that moment has its outcome soon after it."""
    assert {told.tier for told in traffic.of["auto"].told if told.ended_at < moment} == {STRONG}
    begun = [told for told in traffic.told if told.first_at < moment < told.ended_at]
    assert begun
    assert max(told.ended_at for told in begun) < moment + NOTICED_S


def test_a_cut_machine_is_left_out_and_comes_back(simulated: NodeCluster) -> None:
    """The other machine's address answers `auto`; what was in flight has an outcome in time."""
    with Traffic(simulated.url(FAST)) as traffic:
        cut_at = time.monotonic()
        simulated.machines[STRONG].cut()
        wait_for(
            lambda: simulated.machines[STRONG].address not in simulated.alive(),
            timeout_s=LONG_S,
            what="Ray gives the node up",
        )
        dead_after = time.monotonic() - cut_at
        simulated.machines[STRONG].mend()
        whole_after = simulated.wait_whole()
    traffic.show("cut", cut_at)
    print(f"given up after {dead_after:.0f} s, whole {whole_after:.0f} s after the repair")
    assert "silent" not in outcomes(traffic.told)
    assert_ended(traffic, cut_at)
    later = traffic.of["auto"].since(cut_at + NOTICED_S)
    assert outcomes(later) == {"answered"}
    during = [told for told in later if told.ended_at < cut_at + dead_after]
    assert {told.tier for told in during} == {FAST}


def test_a_slow_wire_is_no_fault(simulated: NodeCluster) -> None:
    """With 100 ms and jitter on every frame all calls are answered, and Ray keeps the node."""
    before = simulated.alive()
    with Traffic(simulated.url(FAST)) as traffic:
        slow_at = time.monotonic()
        simulated.machines[STRONG].slow(0.1, 0.03)
        until = slow_at + 40
        while time.monotonic() < until:
            assert simulated.alive() in (before, set()), "the dashboard may be slow"
            time.sleep(1)
        simulated.machines[STRONG].mend()
    traffic.show("slow", slow_at)
    assert outcomes(traffic.told) == {"answered"}
    assert simulated.alive() == before


def test_a_stopped_machine_comes_back(simulated: NodeCluster) -> None:
    """A power cut, and the machine switched on again under its address."""
    with Traffic(simulated.url(FAST)) as traffic:
        stopped_at = time.monotonic()
        simulated.machines[STRONG].stop()
        time.sleep(30)
        simulated.restart(STRONG)
        whole_after = simulated.wait_whole()
    traffic.show("stopped", stopped_at)
    print(f"whole {whole_after:.0f} s after it was switched on")
    assert "silent" not in outcomes(traffic.told)
    assert_ended(traffic, stopped_at)
    assert outcomes(traffic.of["auto"].since(stopped_at + NOTICED_S)) == {"answered"}


def test_the_service_goes_on_without_its_head(simulated: NodeCluster) -> None:
    """GCS, controller and dashboard are away for 40 s; Redis has what they knew."""
    with Traffic(simulated.url(FAST)) as near, Traffic(simulated.url(STRONG)) as far:
        killed_at = time.monotonic()
        simulated.machines[HEAD].stop()
        time.sleep(40)
        back_at = time.monotonic()
        simulated.restart(HEAD)
        simulated.wait_nodes(120)
        nodes_after = time.monotonic() - back_at
        whole_after = simulated.wait_whole() + nodes_after
        wait_for(simulated.is_running, timeout_s=120, what="Serve's controller is back")
        controller_after = time.monotonic() - back_at
    near.show("head, one address", killed_at)
    far.show("head, the other", killed_at)
    print(f"nodes {nodes_after:.0f} s, whole {whole_after:.0f} s", end=", ")
    print(f"controller {controller_after:.0f} s after the head was switched on")
    for traffic in (near, far):
        assert outcomes(traffic.told) == {"answered"}


def test_real_engines_on_two_machines(cluster: NodeCluster) -> None:
    """`fast` on one machine and `strong` on the other, placed by labels; one is cut."""
    cluster.deploy(local_config())
    with Traffic(cluster.url(FAST), clients=2) as traffic:
        cut_at = time.monotonic()
        cluster.machines[STRONG].cut()
        time.sleep(NOTICED_S + 10)
        cluster.machines[STRONG].mend()
        whole_after = cluster.wait_whole()
    traffic.show("real engines, cut for 30 s", cut_at)
    print(f"whole {whole_after:.0f} s after the repair")
    assert "silent" not in outcomes(traffic.told)
    assert outcomes(traffic.of["auto"].since(cut_at + NOTICED_S)) == {"answered"}
