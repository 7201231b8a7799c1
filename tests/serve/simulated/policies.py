"""The policy of all tiers on a faster clock, for a test that waits until its memory has faded."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from serve_app.autoscaling.ray_policies import JointPolicy

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

SPEED = 4.0
"""A minute of the policy's memory passes in 15 s; the rates in its config must be a fourth."""


class FastForwardPolicy(JointPolicy):
    """`JointPolicy`, for which time passes `SPEED` times as fast."""

    def __call__(
        self, contexts: Mapping[Any, AutoscalingContext]
    ) -> tuple[dict[Any, int | float], dict[Any, dict[str, Any]]]:
        """The number of replicas of every deployment from now on."""
        return super().__call__({key: hasten(context) for key, context in contexts.items()})


def hasten(context: AutoscalingContext) -> AutoscalingContext:
    """The same reports at a later time."""
    hastened = copy.copy(context)
    hastened.current_time = (context.current_time or 0.0) * SPEED
    return hastened
