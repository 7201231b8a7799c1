"""The arguments of `JointPolicy`, checked before Ray's controller loads the policy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from serve_app.config.base import Config
from serve_app.config.tiers import NAME_PATTERN, TierConfig

JOINT_POLICY = "serve_app.autoscaling.ray_policies:JointPolicy"
JOINT_POLICY_0_1 = "serve_app.tiers.autoscaling:JointPolicy"
"""The same policy, as configs for 0.1 name it."""


class JointPolicyConfig(Config):
    """The `policy_kwargs` of `JointPolicy`."""

    tiers: tuple[Annotated[str, Field(pattern=NAME_PATTERN)], ...] = Field(min_length=1)
    gpus_max: float | None = Field(None, gt=0, le=1e6)


def check_joint(joint: JointPolicyConfig, tiers: Sequence[TierConfig]) -> None:
    """Whether the policy can scale these tiers.

    Raises:
        ValueError: it names a tier that is not there or has another policy, in another order, or
            leaves one out.
    """
    policies = {tier.name: tier.replicas.policy for tier in tiers}
    for name in joint.tiers:
        if name not in policies:
            raise ValueError(f"tiers: no tier '{name}'; there are {', '.join(policies)}")
        if policies[name] != "llm":
            raise ValueError(f"tiers: {name} needs replicas.policy: llm")
    ordered = [name for name in policies if name in joint.tiers]
    if list(joint.tiers) != ordered:
        raise ValueError(f"tiers: weakest first and each once, [{', '.join(ordered)}]")
    for name, policy in policies.items():
        if policy == "llm" and name not in joint.tiers:
            raise ValueError(
                f"tiers: {name} has replicas.policy: llm, which Ray does not ask beside a policy "
                "for the whole application; name it too"
            )


def check_groups(tiers: Sequence[TierConfig]) -> None:
    """Whether a policy for the whole application, whichever it is, leaves every group whole.

    Raises:
        ValueError: a tier's engines come in groups; Ray rounds to whole ones only where each
            deployment has a policy of its own.
    """
    for tier in tiers:
        if tier.data_parallel_size > 1:
            raise ValueError(
                f"{tier.name} has engine.data_parallel_size, whose groups Ray keeps whole only "
                "without a policy for the whole application"
            )
