"""An engine is killed, and its replica lives."""

from __future__ import annotations

import pytest

from tests.faults.strikes import kill_engine
from tests.faults.trial import Subject, run_trial

pytestmark = [pytest.mark.serve, pytest.mark.faults]


def test_a_killed_engine_costs_no_more_than_its_answers(subject: Subject) -> None:
    """Until its replica is replaced, the other tier answers `auto` calls."""
    row = run_trial(subject, "the engine of `fast` is killed", lambda: kill_engine(subject, "fast"))
    row.check()
    assert row.failed <= row.in_flight
