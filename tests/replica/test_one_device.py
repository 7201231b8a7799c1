"""Process groups that share one device of Gloo."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d
from vllm.utils.import_utils import resolve_obj_by_qualname
from vllm.v1.executor.uniproc_executor import UniProcExecutor

from serve_app.replica.one_device import OneDeviceExecutor, sharing_one_device
from serve_app.replica.one_process import EXECUTOR

GROUPS = 5


@pytest.fixture
def store(tmp_path: Path) -> Iterator[str]:
    """Where the one member of a group meets itself; the groups are gone afterwards."""
    yield f"file://{tmp_path}/store"
    dist.destroy_process_group()


def build_groups(store: str) -> list[dist.ProcessGroup]:
    dist.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    return [dist.new_group([0], backend="gloo") for _ in range(GROUPS)]


def count_loops() -> int:
    """The threads of this process that poll for Gloo."""
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    return names.count("gloo_tcp_loop")


def test_groups_share_one_polling_thread(store: str) -> None:
    """Torch makes a device with a thread for each group, which wakes a hundred times a second."""
    before = count_loops()
    with sharing_one_device():
        groups = build_groups(store)
    assert count_loops() == before + 1
    assert len(groups) == GROUPS


def test_the_groups_work_as_before(store: str) -> None:
    """They are torch's own, and reduce, gather and wait."""
    with sharing_one_device():
        group = build_groups(store)[-1]
    numbers, objects = torch.ones(3), [None]
    dist.all_reduce(numbers, group=group)
    dist.all_gather_object(objects, "here", group=group)
    dist.barrier(group=group)
    assert numbers.tolist() == [1, 1, 1]
    assert objects == ["here"]
    assert isinstance(group._get_backend(torch.device("cpu")), distributed_c10d.ProcessGroupGloo)


def test_later_groups_have_a_device_of_their_own(store: str) -> None:
    """Torch is as it was once the worker has its groups."""
    original = distributed_c10d.ProcessGroupGloo
    with sharing_one_device():
        assert distributed_c10d.ProcessGroupGloo is not original
    assert distributed_c10d.ProcessGroupGloo is original
    before = count_loops()
    build_groups(store)
    assert count_loops() == before + 1 + GROUPS


def test_vllm_finds_the_executor_by_its_name() -> None:
    """The engine's process resolves the name, and calls the method that makes the worker."""
    assert resolve_obj_by_qualname(EXECUTOR) is OneDeviceExecutor
    assert "_init_executor" in vars(UniProcExecutor)
