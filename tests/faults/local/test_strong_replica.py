"""A replica of the strong tier is killed."""

from __future__ import annotations

import pytest

from tests.faults.strikes import kill_replica
from tests.faults.trial import Subject, run_trial

pytestmark = [pytest.mark.serve, pytest.mark.faults]


def test_a_killed_strong_replica_costs_no_more_than_its_answers(subject: Subject) -> None:
    """Answers that had begun end with an error event; `auto` calls go to the other tier."""
    row = run_trial(
        subject, "a replica of `strong` is killed", lambda: kill_replica(subject, "strong")
    )
    row.check()
    assert row.failed <= row.in_flight
