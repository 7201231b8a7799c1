"""`serve-app status` and `logs` over what Routers and nodes have told."""

from __future__ import annotations

import io
from typing import Any

import pytest
import typer
import yaml
from rich.console import Console

from serve_app.cli.logs import LogLine, find_time, parse_age, parse_lines, select
from serve_app.cli.status import find_alarms, read_states, render_status
from serve_app.core.load import BreakerState, TierLoad
from serve_app.pages.numbers import RouterNumbers, RoutingNumbers, Step, TierNumbers, Totals
from serve_app.pages.summary import STEP_S, Summary, summarise
from tests.cli.test_doctor import LOCAL

NOW = 1_800_000_000.0


def application(**status: str) -> dict[str, Any]:
    """What Serve says of the local config."""
    document = yaml.safe_load(LOCAL.read_text())
    deployments = {
        f"tier-{tier}": {
            "status": status.get(tier, "HEALTHY"),
            "message": "no GPU is free" if tier in status else "",
            "replicas": [{"state": "STARTING" if tier in status else "RUNNING"}],
        }
        for tier in ("fast", "strong")
    }
    return {"deployed_app_config": document["applications"][0], "deployments": deployments}


def summary(serve: dict[str, Any], step: Step | None = None, **load: Any) -> Summary:
    tiers = {name: TierNumbers(TierLoad(**load)) for name in ("fast", "strong")}
    steps = [step or Step(int(NOW // STEP_S) - 1, calls={"fast": 10})]
    routing = RoutingNumbers(0.5, target=0.3)
    numbers = RouterNumbers("one", NOW - 60, 1, Totals(10), tiers, steps, routing)
    return summarise([numbers], list(read_states(serve)), missing=0, at=NOW, unclear=None)


def shown(found: Summary) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(render_status(found))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_calm_service_has_no_alarm() -> None:
    """One screen: Routers, tiers, and that all is well."""
    text = shown(summary(application()))
    assert "1 Routers" in text
    assert "No alarms." in text
    for tier in ("fast", "strong"):
        assert tier in text


def test_what_an_operator_should_look_at_is_named() -> None:
    """A tier without a replica and why, errors, and a tier that is down."""
    bad = Step(int(NOW // STEP_S) - 1, calls={"fast": 10}, failed=5)
    found = summary(application(strong="UPDATING"), bad, down=True, breaker=BreakerState.OPEN)
    alarms = list(find_alarms(found))
    assert "strong: no replica runs (no GPU is free)" in alarms
    assert "fast: down for 1 of 1 Routers" in alarms
    assert any("calls failed" in alarm for alarm in alarms)
    assert "No alarms." not in shown(found)


def test_lines_without_a_time_belong_to_the_line_before() -> None:
    """A traceback stays with its message."""
    lines = [
        "a line from before",
        "ERROR 2026-11-30 01:00:00,250 llm_Router x -- it failed",
        "Traceback",
        '{"time": "2026-11-30T00:00:00.500+00:00", "request_id": "r1"}',
    ]
    found = list(parse_lines("node", lines))
    assert [line.text.count("\n") for line in found] == [0, 1, 0]
    assert found[0].at == 0.0
    assert found[2].at % 1 == 0.5


@pytest.mark.parametrize("line", ["", "{", '{"time": 3}', "[]", "INFO 2026-13-99 nonsense"])
def test_what_has_no_time_has_none(line: str) -> None:
    """No line of a log makes the command fail."""
    assert find_time(line) is None


def test_lines_are_selected_by_call_pattern_and_age() -> None:
    """All conditions hold together."""
    lines = [LogLine(float(at), "n", text) for at, text in enumerate(("a r1", "b r1", "b r2"))]
    assert [line.at for line in select(lines, "r1", None, 0)] == [0, 1]
    assert [line.at for line in select(lines, None, None, 1)] == [1, 2]


def test_an_age_has_a_unit() -> None:
    """Anything else is named."""
    assert [parse_age(text) for text in ("30s", "10m", "2h", "1d")] == [30, 600, 7200, 86_400]
    for text in ("10", "m", "1w", "-1m"):
        with pytest.raises(typer.BadParameter, match="write 30s"):
            parse_age(text)
