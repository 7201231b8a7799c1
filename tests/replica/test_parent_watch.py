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

from serve_app.replica import parent_watch

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


def test_an_engine_is_started_with_the_watch_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else a replica starts; an engine that vLLM starts in another way goes without."""
    original = inspect.getattr_static(EngineCoreProc, "run_engine_core")
    monkeypatch.setattr(EngineCoreProc, "run_engine_core", original)
    for _ in range(2):
        parent_watch.watch_engine_processes()
        assert EngineCoreProc.run_engine_core is parent_watch.run_engine_core
    started_by = parent_watch.run_engine_core.original  # type: ignore[attr-defined]
    assert started_by is original.__func__
    monkeypatch.delattr(EngineCoreProc, "run_engine_core")
    parent_watch.watch_engine_processes()
    assert not hasattr(EngineCoreProc, "run_engine_core")


def test_vllm_starts_its_processes_by_the_functions_that_are_wrapped() -> None:
    """Names of the pinned version; tests/faults/test_orphans.py kills a real raylet."""
    assert "target=EngineCoreProc.run_engine_core" in inspect.getsource(CoreEngineProcManager)
    assert "target=WorkerProc.worker_main" in inspect.getsource(WorkerProc.make_worker_process)
    for owner, name in ((EngineCoreProc, "run_engine_core"), (WorkerProc, "worker_main")):
        assert isinstance(inspect.getattr_static(owner, name), staticmethod)
