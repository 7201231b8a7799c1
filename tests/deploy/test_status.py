"""Which tiers are ready, by what Ray Serve says of their replicas."""

from __future__ import annotations

import asyncio
import logging
from itertools import count
from types import SimpleNamespace

import pytest
import ray
from ray import serve

from serve_app.config.tiers import TierConfig
from serve_app.core.call import TierState
from serve_app.deploy import status as status_module
from serve_app.deploy.status import ServeReadiness, TierNews

ALWAYS = TierConfig(name="fast", model_id="m")
AT_TIMES = TierConfig.model_validate(
    {"name": "fast", "model_id": "m", "replicas": {"policy": "llm", "min": 0, "idle_s": 60}}
)


@pytest.mark.parametrize(
    ("tier", "running", "status", "ready"),
    [
        (ALWAYS, 1, "HEALTHY", True),
        (ALWAYS, 0, "HEALTHY", False),
        (AT_TIMES, 0, "HEALTHY", True),
        (AT_TIMES, 0, "UNHEALTHY", False),
        (AT_TIMES, 1, "UPSCALING", True),
    ],
)
async def test_a_tier_that_may_have_no_replica_is_ready_without(
    monkeypatch: pytest.MonkeyPatch, tier: TierConfig, running: int, status: str, ready: bool
) -> None:
    """The next call starts one; any other tier needs a replica that runs."""
    overview = SimpleNamespace(
        replica_states={"RUNNING": running, "STARTING": 1}, status=SimpleNamespace(value=status)
    )
    application = SimpleNamespace(deployments={"tier-fast": overview})
    monkeypatch.setattr(serve, "status", lambda: SimpleNamespace(applications={"llm": application}))
    monkeypatch.setattr(status_module, "read_groups", dict)
    (state,) = await ServeReadiness("llm", [tier]).tiers()
    assert (state.ready, state.replicas) == (ready, running)


async def test_while_serve_builds_a_new_version_the_old_state_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Serve tells of no deployment then; a Router that knows nothing yet says so."""
    overview = SimpleNamespace(
        replica_states={"RUNNING": 2}, status=SimpleNamespace(value="HEALTHY")
    )
    application = SimpleNamespace(deployments={"tier-fast": overview})
    applications = {"llm": application}
    monkeypatch.setattr(serve, "status", lambda: SimpleNamespace(applications=applications))
    readiness = ServeReadiness("llm", [ALWAYS], clock=count(step=100).__next__)
    before = await readiness.tiers()
    application.deployments = {}
    assert await readiness.tiers() == before
    applications.clear()
    assert await readiness.tiers() == before
    (unknown,) = await ServeReadiness("llm", [ALWAYS]).tiers()
    assert (unknown.ready, unknown.status) == (False, "UNKNOWN")


async def test_the_controller_is_asked_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probes of every Router come to one controller; while something starts, sooner."""
    overview = SimpleNamespace(
        replica_states={"RUNNING": 0}, status=SimpleNamespace(value="UPDATING")
    )
    application = SimpleNamespace(deployments={"tier-fast": overview})
    asked = 0
    now = 0.0

    def status() -> SimpleNamespace:
        nonlocal asked
        asked += 1
        return SimpleNamespace(applications={"llm": application})

    monkeypatch.setattr(serve, "status", status)
    readiness = ServeReadiness("llm", [ALWAYS], clock=lambda: now)

    async def probe_at(second: float) -> tuple[bool, int]:
        nonlocal now
        now = second
        (state,) = await readiness.tiers()
        return state.ready, asked

    assert await probe_at(0.0) == (False, 1)
    assert await probe_at(1.9) == (False, 1)
    overview.replica_states = {"RUNNING": 1}
    assert await probe_at(2.1) == (True, 2)
    overview.replica_states = {"RUNNING": 0}
    assert await probe_at(12.0) == (True, 2)
    assert await probe_at(12.2) == (False, 3)


@pytest.mark.parametrize(
    ("waiting", "free", "explained"),
    [(0, 0, None), (1, 8, None), (1, 0, "a replica has no place: "), (2, 0, "2 replicas have no")],
)
async def test_a_replica_without_a_place_is_explained(
    monkeypatch: pytest.MonkeyPatch, waiting: int, free: int, explained: str | None
) -> None:
    """While replicas wait, by what the nodes lack; a place that is free needs no explanation."""
    overview = SimpleNamespace(
        replica_states={"RUNNING": 1, "STARTING": 1}, status=SimpleNamespace(value="UPSCALING")
    )
    application = SimpleNamespace(deployments={"tier-fast": overview})
    monkeypatch.setattr(serve, "status", lambda: SimpleNamespace(applications={"llm": application}))
    resources = {"CPU": 64.0, "GPU": float(free), "memory": 1e12}
    monkeypatch.setattr(
        ray, "nodes", lambda: [{"NodeID": "a", "Alive": True, "Resources": resources}]
    )
    group = {"name": "SERVE_REPLICA::llm#tier-fast#abc", "state": "PENDING"}
    monkeypatch.setattr(
        status_module, "read_groups", lambda: {str(index): group for index in range(waiting)}
    )
    tier = TierConfig.model_validate({"name": "fast", "model_id": "m", "accelerator": "gpu"})
    (state,) = await ServeReadiness("llm", [tier]).tiers()
    if explained is None:
        assert state.message is None
    else:
        assert state.message is not None
        assert state.message.startswith(explained)


def state_of(ready: bool, replicas: int, message: str | None = None) -> TierState:
    return TierState("strong", "m", ready, replicas, "UPDATING", message)


def test_why_a_tier_waits_is_logged_once_a_change(caplog: pytest.LogCaptureFixture) -> None:
    """Ray's dashboard shows a Router's log, and no other place there names what is missing."""
    caplog.set_level(logging.INFO, "ray.serve")
    news = TierNews()
    lacks = "a replica has no place: no node has 4 free GPUs"
    for state in (
        state_of(True, 2),
        state_of(False, 0, lacks),
        state_of(False, 0, lacks),
        state_of(False, 0),
        state_of(True, 1, lacks),
        state_of(True, 2),
        state_of(True, 3),
    ):
        news.note([state])
    assert [record.getMessage() for record in caplog.records] == [
        f"tier strong: replicas that run: 0; {lacks}",
        "tier strong: replicas that run: 0; the deployment is UPDATING",
        f"tier strong: replicas that run: 1; {lacks}",
        "tier strong: replicas that run: 2",
    ]


async def test_the_tiers_are_watched_without_a_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after a look that failed."""
    looks: list[int] = []

    def fail() -> None:
        looks.append(1)
        raise RuntimeError("the controller is away")

    monkeypatch.setattr(serve, "status", fail)
    watch = asyncio.create_task(ServeReadiness("llm", [ALWAYS]).watch(every_s=0))
    while len(looks) < 2:
        await asyncio.sleep(0)
    watch.cancel()
