"""The arguments of `JointPolicy`, checked before Ray's controller imports the policy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from serve_app.config.base import Config
from serve_app.config.tiers import NAME_PATTERN, TierConfig

JOINT_POLICY = "serve_app.autoscaling.ray_policies:JointPolicy"
JOINT_POLICY_0_1 = "serve_app.tiers.autoscaling:JointPolicy"
"""The name of the same policy in configs for 0.1."""


class JointPolicyConfig(Config):
    """The `policy_kwargs` of `JointPolicy`."""

    tiers: tuple[Annotated[str, Field(pattern=NAME_PATTERN)], ...] = Field(min_length=1)
    gpus_max: float | None = Field(None, gt=0, le=1e6)


def check_joint(joint: JointPolicyConfig, tiers: Sequence[TierConfig]) -> None:
    """Check that the policy can scale these tiers.

    Raises:
        ValueError: a tier is missing, unknown, in the wrong order or has another policy.
    """
    policies = {tier.name: tier.replicas.policy for tier in tiers}
    for name in joint.tiers:
        if name not in policies:
            raise ValueError(f"tiers: no tier '{name}'; there are {', '.join(policies)}")
        if policies[name] != "llm":
            raise ValueError(f"tiers: {name} needs replicas.policy: llm")
    ordered = [name for name in policies if name in joint.tiers]
    if list(joint.tiers) != ordered:
        raise ValueError(f"tiers: list the weakest first and each once, [{', '.join(ordered)}]")
    for name, policy in policies.items():
        if policy == "llm" and name not in joint.tiers:
            raise ValueError(
                f"tiers: {name} has replicas.policy: llm. Ray ignores that policy beside a policy "
                "for the whole application; name it too"
            )


def check_groups(tiers: Sequence[TierConfig]) -> None:
    """Check that a policy for the whole application leaves every group of engines whole.

    Raises:
        ValueError: a tier's engines form groups. Ray rounds to whole groups only if each deployment
            has a policy of its own.
    """
    for tier in tiers:
        if tier.data_parallel_size > 1:
            raise ValueError(
                f"{tier.name} has engine.data_parallel_size. Ray keeps the groups of engines "
                "whole only without a policy for the whole application"
            )
