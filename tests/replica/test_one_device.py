"""Process groups that share one device of Gloo."""

from __future__ import annotations

import subprocess
import sys
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
# In a process of its own, because the threads of groups that are gone end a little later.
COUNT = """
import contextlib, pathlib, sys, time
import torch.distributed as dist
from serve_app.replica.one_device import sharing_one_device

with sharing_one_device() if sys.argv[2] == "shared" else contextlib.nullcontext():
    dist.init_process_group("gloo", init_method=sys.argv[1], rank=0, world_size=1)
    groups = [dist.new_group([0], backend="gloo") for _ in range(4)]

def count():
    names = [path.read_text().strip() for path in pathlib.Path("/proc/self/task").glob("*/comm")]
    return names.count("gloo_tcp_loop")

# A thread names itself, a moment after it was made.
deadline = time.monotonic() + 30
while count() < int(sys.argv[3]) and time.monotonic() < deadline:
    time.sleep(0.05)
print("loops", count())
"""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[str]:
    """Where the one member of a group meets itself; the groups are gone afterwards."""
    yield f"file://{tmp_path}/store"
    dist.destroy_process_group()


def build_groups(store: str) -> list[dist.ProcessGroup]:
    dist.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    return [dist.new_group([0], backend="gloo") for _ in range(GROUPS)]


@pytest.mark.parametrize(("way", "loops"), [("shared", 1), ("alone", 5)])
def test_groups_share_one_polling_thread(tmp_path: Path, way: str, loops: int) -> None:
    """Torch makes a device with a thread for each group, which wakes a hundred times a second."""
    command = [sys.executable, "-c", COUNT, f"file://{tmp_path}/store", way, str(loops)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == f"loops {loops}"


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


def test_torch_is_as_it_was_afterwards() -> None:
    """Later groups are of torch's own class, with a device of their own."""
    original = distributed_c10d.ProcessGroupGloo
    with sharing_one_device():
        assert distributed_c10d.ProcessGroupGloo is not original
    assert distributed_c10d.ProcessGroupGloo is original


def test_vllm_finds_the_executor_by_its_name() -> None:
    """The engine's process resolves the name, and calls the method that makes the worker."""
    assert resolve_obj_by_qualname(EXECUTOR) is OneDeviceExecutor
    assert "_init_executor" in vars(UniProcExecutor)
