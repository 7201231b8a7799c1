"""Two faults that are mended within seconds, with an account of every call.

`make faults` has the others (`tests/faults`). This module is the last one of its directory, because
a new Router begins to count anew.
"""

from __future__ import annotations

import pytest

from tests.faults.strikes import kill, named
from tests.faults.trial import Subject, run_trial
from tests.serve.service import Service

pytestmark = pytest.mark.serve


def test_a_killed_controller_costs_no_call(local: Service) -> None:
    """Calls do not pass through it."""
    subject = Subject(local)
    row = run_trial(
        subject, "Serve's controller is killed", lambda: kill(named(subject, "ServeController"))
    )
    row.check()
    assert row.failed + row.refused == 0


def test_a_killed_router_costs_no_more_than_its_calls(local: Service) -> None:
    """Their connections break, the engines stop, and Ray counts 0 again."""
    subject = Subject(local)
    row = run_trial(
        subject, "the only Router is killed", lambda: kill(local.replica_processes("Router"))
    )
    row.check()
    assert 0 < row.failed <= row.in_flight
