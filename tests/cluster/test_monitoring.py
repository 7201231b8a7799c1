"""Dashboard and alerts: they ask for metrics, labels and pages that exist."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

from serve_app.config.tiers import DEPLOYMENT_PREFIX
from serve_app.core.call import Outcome
from tests.cluster.found import some

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "cluster/monitoring"
DASHBOARD = json.loads((MONITORING / "grafana/dashboards/serve-app.json").read_text())
RULES = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"][0]["rules"]
SUFFIXES = {
    "Counter": ["_total"],
    "Gauge": [""],
    "Histogram": ["_bucket", "_sum", "_count"],
}


OF_RAY_SERVE = {"application", "deployment", "replica"}
"""Labels that `ray.serve.metrics` adds within a replica."""
OF_RAY = {"ray_serve_deployment_replica_healthy": OF_RAY_SERVE | {"tier"}}
"""Ray's own metrics that are asked for; `tier` is made of `deployment` by the rule itself."""


def exported() -> dict[str, set[str]]:
    """The names under which Prometheus sees our metrics, with their labels, from the source."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / "serve_app/observe").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                for suffix in SUFFIXES.get(node.func.id, []):
                    name = ast.literal_eval(node.args[0])
                    found[f"ray_{name}{suffix}"] = labels(node) | OF_RAY_SERVE
    return found | OF_RAY


def labels(call: ast.Call) -> set[str]:
    tuples = [item for item in call.args[1:] if isinstance(item, ast.Tuple)]
    return {ast.literal_eval(element) for item in tuples for element in item.elts}


def expressions() -> list[str]:
    asked = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    return asked + [rule["expr"] for rule in RULES]


def test_the_metrics_of_the_source_are_found() -> None:
    """The tests below compare with something."""
    own = exported()["ray_serve_app_calls_total"] - OF_RAY_SERVE
    assert own == {"endpoint", "tier", "outcome"}
    assert len(exported()) > 20


def test_metrics_are_those_of_ray_serve() -> None:
    """Its classes add the application, which two services in one cluster are told apart by."""
    sources = [path.read_text() for path in (ROOT / "serve_app/observe").glob("*.py")]
    importing = [source for source in sources if "from ray.serve.metrics import" in source]
    assert len(importing) >= 3
    assert not any("ray.util.metrics" in source for source in sources)


def test_the_metrics_of_ray_are_there() -> None:
    """In the installed version, under the name and the deployment's prefix that we ask by."""
    source = (Path(ray.__file__).parent / "serve/_private/deployment_state.py").read_text()
    for name, found in OF_RAY.items():
        assert f'"{name.removeprefix("ray_")}"' in source
        assert found >= OF_RAY_SERVE
    (asked,) = (each for each in expressions() if set(OF_RAY) & set(re.findall(r"\w+", each)))
    assert f'"{DEPLOYMENT_PREFIX}(.*)"' in asked


@pytest.mark.parametrize("expression", expressions())
def test_every_metric_exists_with_its_labels(expression: str) -> None:
    """A name that nobody exports shows an empty panel, and an alert that never comes."""
    names = set(re.findall(r"\bray_\w+", expression))
    assert names or expression.startswith("up{")
    assert names <= set(exported())
    grouped = {
        label.strip()
        for group in re.findall(r"\bby \(([^)]*)\)", expression)
        for label in group.split(",")
    }
    selected = set(re.findall(r"[{,]\s*(\w+)\s*=~?\"", expression)) - {"job"}
    if (
        expression.startswith(("sum", "max", "min", "histogram", "("))
        and "$application" not in expression
    ):
        assert "application" in grouped
    for name in names:
        assert (grouped - {"le"}) | selected <= exported()[name]
    if "histogram_quantile" in expression:
        assert "le" in grouped


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_alerts_keep_applications_apart(rule: dict[str, Any]) -> None:
    """One that is well must not hide one that is not."""
    groups = re.findall(r"\b(?:sum|min|max)\b(?: by \(([^)]*)\))?", rule["expr"])
    assert groups or rule["expr"].startswith(("up{", "absent("))
    assert all("application" in group for group in groups)


@pytest.mark.parametrize("panel", DASHBOARD["panels"], ids=lambda panel: panel["title"])
def test_panels_show_the_chosen_applications(panel: dict[str, Any]) -> None:
    """All of them, or those that are chosen at the top of the dashboard."""
    (variable,) = DASHBOARD["templating"]["list"]
    for target in some(panel["targets"]):
        metrics = re.findall(r"\bray_\w+(\S{0,32})", target["expr"])
        assert metrics
        for rest in metrics:
            assert rest.startswith(f'{{{variable["name"]}=~"${variable["name"]}"}}')


def test_outcomes_are_ours() -> None:
    """An outcome that calls cannot have is never counted."""
    asked = " ".join(expressions())
    values = some(re.findall(r"outcome[!=]~?\"([^\"]*)\"", asked))
    assert len(values) == len(re.findall(r"\boutcome\s*[!=]", asked))
    assert {outcome for value in values for outcome in value.split("|")} <= set(Outcome)


def test_the_dashboard_is_whole() -> None:
    """Panels have distinct ids and places, units, and the data source that is provisioned."""
    path = MONITORING / "grafana/provisioning/datasources/prometheus.yaml"
    (source,) = yaml.safe_load(path.read_text())["datasources"]
    panels: list[dict[str, Any]] = some(DASHBOARD["panels"])
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({(p["gridPos"]["x"], p["gridPos"]["y"]) for p in panels}) == len(panels)
    for panel in panels:
        assert panel["datasource"]["uid"] == source["uid"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert all(target["legendFormat"] for target in some(panel["targets"]))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_to_do(rule: dict[str, Any]) -> None:
    """A severity, a sentence, and a page with the words that it is said to have."""
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert rule["annotations"]["summary"].endswith(".")
    page, _, words = rule["annotations"]["runbook"].partition(", ")
    text = (ROOT / page).read_text().replace("`", "")
    assert words.strip('"') in text


def test_alerts_are_tried_by_promtool() -> None:
    """alerts.test.yaml speaks of alerts that are there."""
    trials = yaml.safe_load((MONITORING / "alerts.test.yaml").read_text())["tests"]
    tried = {case["alertname"] for trial in trials for case in trial["alert_rule_test"]}
    assert tried <= {rule["alert"] for rule in RULES}
    assert len(tried) >= 5
