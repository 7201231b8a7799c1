"""Serve's controller is killed."""

from __future__ import annotations

import pytest

from tests.faults.strikes import kill, named
from tests.faults.trial import Subject, run_trial

pytestmark = [pytest.mark.serve, pytest.mark.faults]


def test_a_killed_controller_costs_no_call(subject: Subject) -> None:
    """Calls do not pass through it."""
    row = run_trial(
        subject,
        "Serve's controller is killed",
        lambda: kill(named(subject, "ray::ServeController")),
    )
    row.check()
    assert row.failed + row.refused == 0
