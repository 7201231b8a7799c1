"""Which tiers are ready, by what Ray Serve says of their replicas."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from ray import serve

from serve_app.config.tiers import TierConfig
from serve_app.tiers import status as status_module
from serve_app.tiers.status import ServeReadiness

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
    monkeypatch.setattr(status_module, "FRESH_S", -1.0)
    readiness = ServeReadiness("llm", [ALWAYS])
    before = await readiness.tiers()
    application.deployments = {}
    assert await readiness.tiers() == before
    applications.clear()
    assert await readiness.tiers() == before
    (unknown,) = await ServeReadiness("llm", [ALWAYS]).tiers()
    assert (unknown.ready, unknown.status) == (False, "UNKNOWN")
