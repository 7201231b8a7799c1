"""A few cases for each endpoint, the same in every run; `make fuzz` sends thousands."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.command import run_schemathesis
from tests.fuzz.server import running_gateway

CASES_MIN = 80
LIMIT_S = 120.0


@pytest.mark.slow
def test_no_call_breaks_the_gateway(tmp_path: Path) -> None:
    """Every answer is one that the document knows, and an error is in its endpoint's dialect."""
    with running_gateway(tmp_path / "feedback") as url:
        report = run_schemathesis(
            url,
            tmp_path,
            "--phases=examples,fuzzing,stateful",
            "--max-examples=4",
            "--generation-deterministic",
            limit_s=LIMIT_S,
            capture=True,
        )
    assert report.passed, report.output
    assert report.cases >= CASES_MIN, report.output
