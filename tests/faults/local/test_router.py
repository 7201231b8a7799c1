"""The only Router is killed."""

from __future__ import annotations

import pytest

from tests.faults.strikes import kill
from tests.faults.trial import Subject, run_trial

pytestmark = [pytest.mark.serve, pytest.mark.faults]


def test_a_killed_router_holds_nothing(subject: Subject) -> None:
    """Its connections break, the engines stop, and Ray counts 0 again."""
    row = run_trial(
        subject,
        "the only Router is killed",
        lambda: kill(subject.service.replica_processes("Router")),
    )
    row.check()
