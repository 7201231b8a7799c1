"""vLLM's engine as its replica watches it."""

from __future__ import annotations

import inspect
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import vllm
from ray.serve._private.deployment_state import DeploymentState
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.output_processor import OutputProcessor

from serve_app.replica.engine_stats import EngineStats
from serve_app.replica.liveness import EngineFault
from serve_app.replica.vllm_engine import (
    WORKER_TITLE,
    VLLMSigns,
    find_workers,
    has_ended,
    kill_engine,
)


class FakeClient:
    """What the watch reads of vLLM's client."""

    def __init__(self) -> None:
        self.errored = False
        self.paused = False
        self.output_processor = SimpleNamespace(has_unfinished_requests=lambda: True)

    async def is_paused(self) -> bool:
        return self.paused


class Made:
    """The signs of a client, and what a test changes about them."""

    def __init__(self, stats: EngineStats | None = None) -> None:
        self.client = FakeClient()
        self.stats = stats
        self.serves = True
        self.seen: list[bool] = []
        self.signs = VLLMSigns(self.client, stats, lambda: self.serves, self._probe)

    async def _probe(self) -> None:
        self.seen.append(self.stats is not None and self.stats.probing)


def ended() -> Any:
    call = SimpleNamespace(num_prompt_tokens=3, num_generation_tokens=2)
    return SimpleNamespace(time_to_first_tokens_iter=[0.1], finished_requests=[call])


def step() -> Any:
    return SimpleNamespace(num_running_reqs=1, num_waiting_reqs=0, kv_cache_usage=0.0)


def test_a_fault_is_a_dead_engine_or_a_closed_server() -> None:
    """The engine's death comes first: its server may end because of it."""
    made = Made()
    assert made.signs.fault() is None
    made.serves = False
    assert made.signs.fault() is EngineFault.CLOSED
    made.client.errored = True
    assert made.signs.fault() is EngineFault.DEAD


async def test_the_signs_of_life_are_vllms() -> None:
    """Steps by its statistics, requests by its output processor, pauses by its loop's answer."""
    stats = EngineStats()
    made = Made(stats)
    stats.record(step(), None)
    stats.record(None, None)
    assert made.signs.steps() == 2
    assert made.signs.busy()
    assert not await made.signs.ping()
    made.client.paused = True
    assert await made.signs.ping()
    assert Made(None).signs.steps() == 0


async def test_a_probe_is_no_call() -> None:
    """It is a step, but the policies of autoscaling neither see its tokens nor a running call."""
    stats = EngineStats()
    made = Made(stats)
    await made.signs.probe()
    assert made.seen == [True]
    assert not stats.probing
    stats.probing = True
    stats.record(step(), ended())
    assert (stats.steps, stats.read()) == (1, None)
    stats.probing = False
    stats.record(step(), ended())
    signals = stats.signals()
    assert signals is not None
    assert (signals.finished, signals.prompt_tokens) == (1, 3)
    await Made(None).signs.probe()


def test_only_a_client_of_vllm_can_be_pinged() -> None:
    """Of another engine nothing but its death is watched."""
    assert Made().signs.can_be_pinged
    assert not VLLMSigns(SimpleNamespace(), None, bool, Made().signs.probe).can_be_pinged


@pytest.mark.parametrize(
    ("owner", "text"),
    [
        (AsyncLLM.is_paused, "engine_core.is_scheduler_paused_async()"),
        (OutputProcessor.has_unfinished_requests, "self.request_states"),
        # Ray looks for the answer to a check that waits in every turn of its loop.
        (DeploymentState._dirty_set_active_pairs, "self._outstanding_dirty_set"),
        (DeploymentState.check_and_update_replicas, "self._outstanding_dirty_set.add("),
    ],
)
def test_the_pinned_versions_do_what_the_watch_needs(owner: object, text: str) -> None:
    """Names and behaviour that are not public; tests/serve/test_faults.py uses them for real."""
    assert text in inspect.getsource(owner)  # type: ignore[arg-type]


def test_the_pinned_vllm_tells_of_steps_without_tokens() -> None:
    """The chunks of a long prompt are signs of life. Importing the scheduler would warn."""
    scheduler = Path(vllm.__file__).parent / "v1" / "core" / "sched" / "scheduler.py"
    assert "engine_core_outputs[0] = eco = EngineCoreOutputs()" in scheduler.read_text()


def test_the_processes_of_an_engine_are_killed() -> None:
    """Those of its workers too, and those that were stopped."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    engine = context.Process(target=run_engine, args=(sender,))
    engine.start()
    worker = psutil.Process(receiver.recv())
    os.kill(engine.pid or 0, signal.SIGSTOP)
    kill_engine()
    engine.join(10)
    assert engine.exitcode == -signal.SIGKILL
    psutil.wait_procs([worker], timeout=10)
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE


def test_a_replica_that_is_given_up_ends_itself_in_the_end() -> None:
    """Also while its event loop is blocked."""
    code = (
        "import time; from serve_app.replica.vllm_engine import exit_later; "
        "exit_later(0.1); time.sleep(60)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=50, check=False).returncode == 1


def run_engine(sender: multiprocessing.connection.Connection) -> None:
    """An engine with a worker, which both wait."""
    worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    sender.send(worker.pid)
    time.sleep(60)


def test_a_dead_worker_is_a_dead_engine() -> None:
    """Before vLLM says so: it first waits for the other workers. A zombie is dead too."""
    title = f"exec -a {WORKER_TITLE}_TP0 sleep 60 & wait"
    context = multiprocessing.get_context("fork")
    engine = context.Process(target=os.execvp, args=("bash", ["bash", "-c", title]))
    engine.start()
    try:
        while not (workers := find_workers()):
            time.sleep(0.01)
        made = Made()
        assert made.signs.fault() is None
        os.kill(workers[0], signal.SIGKILL)
        while not has_ended(workers[0]):
            time.sleep(0.01)
        assert made.signs.fault() is EngineFault.DEAD
    finally:
        engine.kill()
        engine.join()
    assert find_workers() == []
