"""Processes that end with their parent, as an engine's processes do."""

from __future__ import annotations

import inspect
import subprocess
import sys

import psutil
import pytest
from vllm.v1.engine.core import EngineCoreProc
from vllm.v1.engine.utils import CoreEngineProcManager
from vllm.v1.executor.multiproc_executor import WorkerProc

START = "import sys; from tests.replica.watched import start_child; start_child(sys.argv[1])"


@pytest.mark.parametrize("kind", ["willing", "stubborn"])
def test_a_process_ends_with_its_parent(kind: str) -> None:
    """After kill -9 of the parent; a child that ignores SIGTERM is killed."""
    command = [sys.executable, "-c", START, kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    child.wait(timeout=20)
    assert not child.is_running()


def test_vllm_starts_its_processes_by_the_functions_that_are_wrapped() -> None:
    """Names of the pinned version; tests/faults/test_orphans.py kills a real raylet."""
    assert "target=EngineCoreProc.run_engine_core" in inspect.getsource(CoreEngineProcManager)
    assert "target=WorkerProc.worker_main" in inspect.getsource(WorkerProc.make_worker_process)
    for owner, name in ((EngineCoreProc, "run_engine_core"), (WorkerProc, "worker_main")):
        assert isinstance(inspect.getattr_static(owner, name), staticmethod)
