"""`serve_app.tiers.autoscaling:JointPolicy` stands in configs that were written for 0.1."""

from __future__ import annotations

import warnings

from serve_app.autoscaling.ray_policies import JointPolicy, LLMPolicy

__all__ = ["JointPolicy", "LLMPolicy"]

warnings.warn(
    "serve_app.tiers.autoscaling is now serve_app.autoscaling.ray_policies; "
    "the old name will go with 0.3",
    DeprecationWarning,
    stacklevel=2,
)
