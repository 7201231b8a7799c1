"""The actor that keeps HAProxy is killed."""

from __future__ import annotations

import pytest

from tests.faults.strikes import kill, named
from tests.faults.trial import Subject, run_trial

pytestmark = [pytest.mark.serve, pytest.mark.faults]


def test_a_killed_proxy_actor_comes_back(subject: Subject) -> None:
    """Ray starts the actor again, and it finds or starts HAProxy."""
    row = run_trial(
        subject,
        "Serve's proxy actor is killed",
        lambda: kill(named(subject, "ray::HAProxyManager") or named(subject, "ray::ProxyActor")),
    )
    row.check()
