"""HAProxy is killed."""

from __future__ import annotations

import pytest

from tests.faults.strikes import kill, named
from tests.faults.trial import Subject, run_trial

pytestmark = [pytest.mark.serve, pytest.mark.faults]


def test_a_killed_haproxy_comes_back(subject: Subject) -> None:
    """Connections break, new ones are refused, until Ray has started it again."""
    row = run_trial(subject, "HAProxy is killed", lambda: kill(named(subject, "haproxy")))
    row.check()
