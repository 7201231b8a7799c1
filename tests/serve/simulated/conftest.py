"""One cluster for all modules of this directory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.serve.simulated.cluster import SimulatedCluster, gpu_cluster, gpu_node


@pytest.fixture(scope="package")
def nodes() -> Iterator[SimulatedCluster]:
    """Two nodes of four H100, one with two L4; in each zone there is one `zone_slot`."""
    nodes = (
        gpu_node(4, zone_slots=1, zone="a"),
        gpu_node(4, zone_slots=1, zone="b"),
        gpu_node(2, kind="L4", zone="b"),
    )
    with gpu_cluster(*nodes) as found:
        yield found


@pytest.fixture(scope="module")
def cluster(nodes: SimulatedCluster) -> Iterator[SimulatedCluster]:
    """The cluster, with all its GPUs free."""
    yield nodes
    nodes.clear()
