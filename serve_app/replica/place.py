"""The nodes of a replica's own workers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import ray
from ray.util import placement_group_table


def own_workers_by_node() -> Mapping[str, int]:
    """The number of bundles on each node, for the placement group of this process."""
    group = ray.util.get_current_placement_group()
    if group is None:
        return {}
    return Counter(placement_group_table(group)["bundles_to_node_id"].values())


def count_torn_groups(workers_by_node: Mapping[str, int], tensor_parallel_size: int) -> int:
    """The number of nodes that hold a part of a tensor-parallel group.

    vLLM numbers workers node by node, and every `tensor_parallel_size` workers in a row are a
    group. So no group spans nodes if each node holds whole groups.
    """
    return sum(workers % tensor_parallel_size != 0 for workers in workers_by_node.values())
