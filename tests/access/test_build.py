"""When a Router makes the step anew, and when it keeps the step that it has."""

from __future__ import annotations

from typing import Any

import pytest

from serve_app.access.build import needs
from serve_app.assemble import StepsOwner, assemble
from serve_app.config.app import AppConfig
from serve_app.config.runtime import RuntimeConfig
from serve_app.core.caller import Credentials
from serve_app.core.errors import Unauthorized
from serve_app.steps import Plan

APP = AppConfig.model_validate({"tiers": [{"name": "fast", "model_id": "m-fast"}]})
ANONYMOUS = {"anonymous": {"roles": ["user"]}}


def plan_of(**runtime: Any) -> Plan:
    return Plan(APP, RuntimeConfig.model_validate(runtime), "r1")


def test_without_access_there_is_no_step() -> None:
    """And nothing on the way of a call."""
    assert needs(plan_of()) is None
    assert assemble(plan_of()).access is None


async def test_a_change_elsewhere_keeps_the_step() -> None:
    """A change of a role makes it anew, without a restart."""
    owner = StepsOwner(plan_of(access=ANONYMOUS))
    owner.start()
    first = owner.steps.access
    _, same = owner.prepare(plan_of(access=ANONYMOUS, limits={"calls_max": 7}).runtime)
    assert same.access is first
    roles = {"user": {"output_tokens_max": 5}}
    plan, changed = owner.prepare(plan_of(access={**ANONYMOUS, "roles": roles}).runtime)
    assert changed.access is not first
    owner.take(plan, changed)
    assert changed.access is not None
    caller = await changed.access.authenticate(Credentials(peer="::1"))
    assert (caller.rights.output_tokens_max, caller.address) == (5, "::1")
    with pytest.raises(Unauthorized):
        await changed.access.authenticate(Credentials(authorization=b"Bearer x"))
    await owner.close()
