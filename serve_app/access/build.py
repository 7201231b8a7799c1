"""Makes the step `access` of a Router's config."""

from __future__ import annotations

from serve_app.access.authentication import build_authenticator
from serve_app.access.control import AccessControl
from serve_app.steps import Plan


def needs(plan: Plan) -> object:
    """The values that the step is made of, None for no step."""
    return None if plan.runtime.access is None else (plan.runtime.access, plan.app.tiers)


def build(plan: Plan) -> AccessControl:
    """The step.

    Raises:
        ValueError: the keys cannot be read.
    """
    config = plan.runtime.access
    assert config is not None, "only a config with `access` asks for the step"
    identifier = build_authenticator(config.keys, config.jwt, config.certificates)
    return AccessControl(config, plan.app.tiers, identifier)
