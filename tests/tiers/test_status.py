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
