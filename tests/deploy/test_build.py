"""From a tier's config to what its replicas are started with."""

from __future__ import annotations

from typing import Any

import pytest

from serve_app.config.tiers import TierConfig
from serve_app.core.call import Endpoint
from serve_app.deploy.build import plan_watch


def tier(**fields: Any) -> TierConfig:
    return TierConfig(name="fast", model_id="org/model", **fields)


def test_the_bounds_are_the_configs() -> None:
    """None switches a part of the watch off."""
    plan = plan_watch(tier(engine_watch={"stuck_s": 90, "idle_probe_s": None}))
    assert (plan.stuck_s, plan.idle_probe_s) == (90, None)


@pytest.mark.parametrize(
    ("tasks", "endpoint"),
    [
        (("generate",), Endpoint.COMPLETIONS),
        (("embed",), Endpoint.EMBEDDINGS),
        (("embed", "score"), Endpoint.EMBEDDINGS),
        (("score",), Endpoint.RERANK),
    ],
)
def test_a_model_is_probed_by_what_it_can_do(tasks: tuple[str, ...], endpoint: Endpoint) -> None:
    """A model that embeds or scores generates no token."""
    assert plan_watch(tier(tasks=tasks)).probes is endpoint
