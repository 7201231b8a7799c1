"""Rules, their trials, the scrape config and every query of the dashboard, by `promtool`."""

from __future__ import annotations

import shutil
import subprocess
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.exporters import find_all
from tests.cluster.test_monitoring import DASHBOARDS, MONITORING, NAME, TRIALS_FILES

PROMTOOL = shutil.which("promtool")
pytestmark = pytest.mark.skipif(PROMTOOL is None, reason="needs promtool (Debian: prometheus)")

VALUES = {
    "application": "llm",
    "deployment": "tier-fast",
    "tier": "fast",
    "outcome": "server_error",
    "code": "rate_limit_exceeded",
}
VARIED = {"le": ("1.0", "5.0", "+Inf"), "right": ("true", "false")}
"""Labels of which every query needs another value, or several."""
REPLICA = "a1b2"
QUERIES = {
    f"{name}, {panel['title']}, {number}": target["expr"]
    for name, dashboard in DASHBOARDS.items()
    for panel in dashboard["panels"]
    for number, target in enumerate(panel.get("targets", []))
}


def promtool(*arguments: str) -> None:
    assert PROMTOOL is not None
    done = subprocess.run([PROMTOOL, *arguments], cwd=MONITORING, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_rules_and_targets_are_valid() -> None:
    """Prometheus would start with them."""
    promtool("check", "rules", "alerts.yaml")
    promtool("check", "config", "prometheus.yaml")


@pytest.mark.parametrize("name", TRIALS_FILES)
def test_alerts_come_and_stay_away_as_tried(name: str) -> None:
    """By the series of the trials."""
    promtool("test", "rules", name)


def test_every_panel_shows_something(tmp_path: Path) -> None:
    """Each query finds the series that exporters make: names, labels and joins agree."""
    rules = [
        {"alert": title, "expr": f"count({expand(query)}) > 0"} for title, query in QUERIES.items()
    ]
    (tmp_path / "rules.yaml").write_text(
        yaml.safe_dump({"groups": [{"name": "d", "rules": rules}]})
    )
    trial = {"interval": "15s", "input_series": series(), "alert_rule_test": expect()}
    document = {"rule_files": ["rules.yaml"], "evaluation_interval": "15s", "tests": [trial]}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(document))
    promtool("test", "rules", str(tmp_path / "test.yaml"))


def expand(query: str) -> str:
    """A query as Grafana asks it: all applications, and a rate over some scrapes."""
    return query.replace("$application", ".*").replace("$__rate_interval", "1m")


def series() -> list[dict[str, str]]:
    """One growing series of each metric that a query asks for, with all of its labels."""
    exported = find_all()
    asked = {name for query in QUERIES.values() for name in NAME.findall(query)}
    return [
        {"series": f"{name}{{{render(exported[name], dict(varied))}}}", "values": "1+1x40"}
        for name in sorted(asked)
        for varied in product(
            *(
                [(label, value) for value in values]
                for label, values in VARIED.items()
                if label in exported[name]
            )
        )
    ]


def render(labels: frozenset[str], varied: dict[str, str]) -> str:
    values = VALUES | varied | {"replica": REPLICA, "ReplicaId": REPLICA}
    named = {label: values.get(label, "x") for label in [*labels, "instance"]}
    return ", ".join(f'{label}="{value}"' for label, value in sorted(named.items()))


def expect() -> list[dict[str, Any]]:
    return [
        {"eval_time": "9m", "alertname": title, "exp_alerts": [{"exp_labels": {}}]}
        for title in QUERIES
    ]
