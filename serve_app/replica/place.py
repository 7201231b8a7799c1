"""Where a replica's own workers lie."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import ray
from ray.util import placement_group_table


def own_workers_by_node() -> Mapping[str, int]:
    """How many bundles of the placement group of this process each node holds."""
    group = ray.util.get_current_placement_group()
    if group is None:
        return {}
    return Counter(placement_group_table(group)["bundles_to_node_id"].values())


def count_torn_groups(workers_by_node: Mapping[str, int], tensor_parallel_size: int) -> int:
    """Nodes on which a tensor-parallel group begins and does not end.

    vLLM numbers workers node by node, and every `tensor_parallel_size` of them in a row are a
    group; so no group spans nodes where each node has whole ones.
    """
    return sum(workers % tensor_parallel_size != 0 for workers in workers_by_node.values())
