"""A rolling update of everything and a scale-down, each under a thousand calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import yaml

from tests.faults.drains.conftest import replicas
from tests.faults.trial import Subject, run_trial
from tests.outcomes.fault_table import FaultRow
from tests.outcomes.load import Load
from tests.serve.service import wait_for

pytestmark = [pytest.mark.serve, pytest.mark.faults]

CALLS = 1000
DEPLOYMENTS = ("Router", "tier-fast", "tier-strong")


def changed(subject: Subject, change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """The file that was deployed last, with a change, which stays for the next test."""
    path = subject.service.run_dir / "serve.yaml"
    document: dict[str, Any] = yaml.safe_load(path.read_text())
    change(document["applications"][0])
    path.write_text(yaml.safe_dump(document))
    return document


def pids(subject: Subject, deployment: str) -> set[int]:
    return {process.pid for process in subject.service.replica_processes(deployment)}


def wait_gone(subject: Subject, old: set[int]) -> None:
    """Until the processes of the replicas that were told to go have ended."""
    wait_for(
        lambda: not any(old & pids(subject, name) for name in DEPLOYMENTS),
        timeout_s=180,
        what="the drained replicas are gone",
    )


def wait_a_thousand(load: Load) -> None:
    wait_for(lambda: len(load.seen) >= CALLS, timeout_s=300, what=f"{CALLS} calls")


def renew(application: dict[str, Any]) -> None:
    """A change under `args`, which replaces all replicas."""
    variables = application["args"]["router"].setdefault("env", {})
    variables["SERVE_APP_TEST_VERSION"] = variables.get("SERVE_APP_TEST_VERSION", "") + "+"


def wait_longer(application: dict[str, Any]) -> None:
    """Let calls wait for longer than a replica needs to drain and the next one to start."""
    application["deployments"][0]["user_config"]["deadlines"]["lease_s"] = 120


def update(subject: Subject, fault: str, change: Callable[[dict[str, Any]], None]) -> FaultRow:
    """Deploy a changed file under load, until every replica is another process."""
    old = set().union(*(pids(subject, name) for name in DEPLOYMENTS))

    def strike() -> None:
        subject.service.apply(changed(subject, change))
        wait_gone(subject, old)

    return run_trial(subject, fault, strike, while_loaded=wait_a_thousand)


def test_an_update_of_everything_loses_no_call(subject: Subject) -> None:
    """Two replicas of one tier go one by one; the Router and the other tier surge."""
    row = update(subject, "update: two `fast`; Router and `strong` by surge", renew)
    row.check()
    assert row.calls >= CALLS
    assert row.failed + row.refused == 0


def test_an_update_without_room_holds_the_calls(subject: Subject) -> None:
    """Calls that name a tier with one replica wait for the next one, if `lease_s` lets them."""
    # Before the update, as docs/operations.md says: the Router that goes holds calls, too.
    subject.service.apply(changed(subject, wait_longer))

    def renew_without_surge(application: dict[str, Any]) -> None:
        renew(application)
        application["deployments"][2]["max_surge_percent"] = 0

    row = update(subject, "update: `strong` without surge, `lease_s: 120`", renew_without_surge)
    row.check()
    assert row.calls >= CALLS
    assert row.failed + row.refused == 0


def test_a_scale_down_loses_no_call(subject: Subject) -> None:
    """The replica that goes finishes its answers, and the calls go to the other one."""
    old = pids(subject, "tier-fast")
    assert len(old) == 2

    def shrink(application: dict[str, Any]) -> None:
        application["deployments"][1]["autoscaling_config"] = replicas(1)

    def strike() -> None:
        subject.service.apply(changed(subject, shrink))
        wait_for(lambda: len(pids(subject, "tier-fast")) == 1, timeout_s=180, what="one is gone")

    row = run_trial(
        subject,
        "scale-down of `fast` from two replicas to one",
        strike,
        while_loaded=wait_a_thousand,
        removes={
            "ray::ServeReplica:llm:tier-fast": 1,
            "VLLM::": 1,
            "multiprocessing.resource_tracker": 1,
        },
    )
    row.check()
    assert row.calls >= CALLS
    assert row.failed + row.refused == 0
