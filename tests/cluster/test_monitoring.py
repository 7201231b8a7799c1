"""Dashboard and alerts: they ask for metrics, labels and pages that exist."""

from __future__ import annotations

import json
import re
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from serve_app.audit.build import build_log
from serve_app.audit.seal import write_keys
from serve_app.config.audit import AuditConfig
from serve_app.config.prices import PriceConfig, PricesConfig
from serve_app.config.tiers import DEPLOYMENT_PREFIX
from serve_app.core import errors
from serve_app.core.call import Outcome
from serve_app.steps import Steps
from tests.cluster.exporters import (
    DCGM,
    OF_NODES,
    OF_RAY_SERVE,
    find_all,
    find_of_ray_serve,
    find_of_vllm,
    find_ours,
)
from tests.cluster.found import some
from tests.cluster.kustomization import KUBERAY, build, find_pods
from tests.cluster.produced import find_produced

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "cluster/monitoring"
DASHBOARDS = {
    path.stem: json.loads(path.read_text())
    for path in sorted((MONITORING / "grafana/dashboards").glob("*.json"))
}
PANELS = [
    panel
    for dashboard in DASHBOARDS.values()
    for panel in dashboard["panels"]
    if panel["type"] != "row"
]
GROUPS = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"]
EVERY_RULE = [rule for group in GROUPS for rule in group["rules"]]
RULES = [rule for rule in EVERY_RULE if "alert" in rule]
RECORDS = {rule["record"]: rule["expr"] for rule in EVERY_RULE if "record" in rule}
TRIALS_FILES = ("alerts.test.yaml", "alerts-long.test.yaml")
TRIALS = [
    trial
    for name in TRIALS_FILES
    for trial in yaml.safe_load((MONITORING / name).read_text())["tests"]
]

NAME = re.compile(r"\b(?:ray_|DCGM_)\w+|\bserve_app:[\w:]+")
SELECTED = re.compile(r"\b((?:ray_|DCGM_)\w+)\{([^}]*)\}")
WITH_AUDIT = {"ray_serve_app_audit_failing", "ray_serve_app_audit_waiting"}
WITH_TARGET = {"ray_serve_app_routing_strong_ratio", "ray_serve_app_routing_strong_ratio_target"}
WITH_KEYS = {
    *WITH_AUDIT,
    *WITH_TARGET,
    "ray_serve_app_budget_used_ratio",  # limits.rules
    "ray_serve_app_certificate_end_seconds",  # SERVE_APP_TLS_CERTIFICATE
    "ray_serve_app_variant_rolled_back",  # args.variants
    "ray_serve_app_batch_oldest_wait_seconds",  # batches
    "ray_serve_app_webhook_oldest_wait_seconds",  # batches.webhooks
}
"""Metrics of ours that need a key which not every shipped config has."""
OF_PROMETHEUS = {"job", "instance"}
"""Labels that a scrape adds."""
OF_A_MACHINE = ("DCGM_", "ray_node_", "ray_memory_manager_")
"""What these metrics tell is not of one application."""

every_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
every_panel = pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
every_dashboard = pytest.mark.parametrize("dashboard", DASHBOARDS.values(), ids=DASHBOARDS.keys())


def expressions() -> list[str]:
    asked = [target["expr"] for panel in PANELS for target in panel["targets"]]
    return asked + [rule["expr"] for rule in EVERY_RULE]


def names_of(expression: str) -> set[str]:
    """The metrics that an expression asks for, also by what is recorded of them."""
    found: set[str] = set()
    for name in NAME.findall(expression):
        found |= names_of(RECORDS[name]) if name in RECORDS else {name}
    return found


def test_the_metrics_of_the_sources_are_found() -> None:
    """The tests below compare with something."""
    own = find_ours()
    assert own["ray_serve_app_calls_total"] - OF_RAY_SERVE == {"endpoint", "tier", "outcome"}
    assert len(own) > 20
    engines = find_of_vllm()
    assert engines["ray_vllm_kv_cache_usage_perc"] == {"model_name", "engine", "ReplicaId"}
    assert "le" in engines["ray_vllm_iteration_tokens_total_bucket"]
    assert "ray_vllm_corrupted_requests_total" not in engines, "only where an engine counts them"
    replicas = find_of_ray_serve()
    assert replicas["ray_serve_deployment_replica_healthy"] == OF_RAY_SERVE
    assert replicas["ray_serve_autoscaling_target_replicas"] == {"application", "deployment"}


@pytest.mark.parametrize("name", ["prod.yaml", "prod-qwen3.yaml", "local.yaml"])
async def test_every_alert_can_come_under_the_shipped_configs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it looks at is there: some metrics of ours need a key that a config may not have."""
    ours = await find_produced(ROOT / "configs" / name, tmp_path / "access.jsonl", monkeypatch)
    there = ours | set(find_of_vllm()) | set(find_of_ray_serve()) | set(OF_NODES) | set(DCGM)
    for rule in RULES:
        asked = names_of(rule["expr"])
        assert asked <= there | WITH_KEYS, rule["alert"]
        assert asked or rule["expr"].startswith("up{")
    for panel in PANELS:
        asked = {name for target in panel["targets"] for name in NAME.findall(target["expr"])}
        if not asked & there:
            keys = r"\b(routing|prices|audit|access|limits|feedback|cache|deadlines|batches)\.\w+"
            keys += r"|\breplica_choice: "
            assert re.search(keys, panel["description"]), panel["title"]


async def test_audit_and_prices_have_their_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their panels and the alert find what they ask for where the config has both keys."""
    write_keys(tmp_path / "audit.key")
    config = AuditConfig(directory=str(tmp_path / "log"), key_file=str(tmp_path / "audit.key"))
    prices = PricesConfig(
        tiers={"fast": PriceConfig(input=1, output=2), "strong": PriceConfig(input=9, output=9)}
    )
    steps = Steps(audit=build_log(config, "EUR", "r1", "node"), prices=prices)
    log = tmp_path / "access.jsonl"
    ours = await find_produced(ROOT / "configs/local.yaml", log, monkeypatch, steps)
    await steps.parts[0].close()
    assert ours >= WITH_AUDIT
    assert ours >= {"ray_serve_app_cost_total", "ray_serve_app_saved_cost_total"}


def test_metrics_are_those_of_ray_serve() -> None:
    """Its classes add the application, which two services in one cluster are told apart by."""
    sources = [path.read_text() for path in (ROOT / "serve_app/observe").glob("*.py")]
    importing = [source for source in sources if "from ray.serve.metrics import" in source]
    assert len(importing) >= 3
    assert not any("ray.util.metrics" in source for source in sources)


def test_tiers_are_told_by_the_name_of_their_deployment() -> None:
    """Ray's own metrics have no tier."""
    replaced = re.findall(r'"tier", "\$1", "deployment", "([^"]*)"', " ".join(expressions()))
    assert set(some(replaced)) == {f"{DEPLOYMENT_PREFIX}(.*)"}


@pytest.mark.parametrize("expression", expressions())
def test_every_metric_exists_with_its_labels(expression: str) -> None:
    """A name that nobody exports shows an empty panel, and an alert that never comes."""
    names = set(NAME.findall(expression))
    exported = find_all() | dict.fromkeys(RECORDS, frozenset({"application"}))
    assert names or expression.startswith("up{")
    assert names <= set(exported)
    for name, selected in SELECTED.findall(expression):
        assert set(re.findall(r"(\w+)\s*[=!]", selected)) <= exported[name] | OF_PROMETHEUS
    made = set(re.findall(r', "(\w+)", "\$1", ', expression))
    known = set().union(*(exported[name] for name in names)) | made | OF_PROMETHEUS
    assert grouped_by(expression) <= known
    if "histogram_quantile" in expression:
        assert "le" in grouped_by(expression)


def grouped_by(expression: str) -> set[str]:
    groups = re.findall(r"\b(?:by|on|group_left) \(([^)]*)\)", expression)
    return {label.strip() for group in groups for label in group.split(",")}


@every_rule
def test_alerts_keep_applications_apart(rule: dict[str, Any]) -> None:
    """One that is well must not hide one that is not."""
    groups = re.findall(r"\b(?:sum|min|max|avg)\b(?: by \(([^)]*)\))?", rule["expr"])
    if any(name.startswith(OF_A_MACHINE) for name in names_of(rule["expr"])):
        return
    assert (
        groups
        or rule["expr"].startswith(("up{", "absent("))
        or set(RECORDS) & set(NAME.findall(rule["expr"]))
    )
    assert all("application" in group for group in groups)


@every_panel
def test_panels_show_the_chosen_applications(panel: dict[str, Any]) -> None:
    """All of them, or those that are chosen at the top of the dashboard."""
    chosen = 'application=~"$application"'
    for target in some(panel["targets"]):
        for part in some(re.split(r" / ", target["expr"])):
            assert chosen in part or any(name in part for name in OF_A_MACHINE) or part == "100"
        for name, selected in SELECTED.findall(target["expr"]):
            assert selected.startswith(chosen), name


def test_outcomes_are_ours() -> None:
    """An outcome that calls cannot have is never counted."""
    asked = " ".join(expressions())
    values = some(re.findall(r"outcome(?:=~|!=|=)\"([^\"]*)\"", asked))
    assert len(values) == len(re.findall(r"\boutcome\s*[!=]", asked))
    assert {outcome for value in values for outcome in value.split("|")} <= set(Outcome)


def test_error_codes_are_ours() -> None:
    """A code that no error has is never counted."""
    asked = " ".join(expressions())
    (values,) = set(some(re.findall(r"\bcode=~\"([^\"]*)\"", asked)))
    ours = {getattr(value, "code", None) for value in vars(errors).values()}
    assert set(values.split("|")) <= ours


@every_dashboard
def test_a_dashboard_is_whole(dashboard: dict[str, Any]) -> None:
    """Panels have distinct ids and places, units, and the data source that is provisioned."""
    (variable,) = dashboard["templating"]["list"]
    assert variable["name"] == "application"
    everything = dashboard["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    assert len({(p["gridPos"]["x"], p["gridPos"]["y"]) for p in everything}) == len(everything)
    path = MONITORING / "grafana/provisioning/datasources/prometheus.yaml"
    (source,) = yaml.safe_load(path.read_text())["datasources"]
    panels: list[dict[str, Any]] = [panel for panel in everything if panel["type"] != "row"]
    for panel in some(panels):
        assert panel["datasource"]["uid"] == source["uid"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert all(target["legendFormat"] for target in some(panel["targets"]))


def test_dashboards_are_told_apart() -> None:
    """By their uid, which Grafana's addresses hold, and which is the name of the file."""
    assert len(DASHBOARDS) == 4
    for name, dashboard in DASHBOARDS.items():
        assert dashboard["uid"] == name
        assert dashboard["tags"] == ["serve-app"], "the links between them go by this tag"
    assert len({dashboard["title"] for dashboard in DASHBOARDS.values()}) == len(DASHBOARDS)


@every_rule
def test_an_alert_says_what_to_do(rule: dict[str, Any]) -> None:
    """A severity, a sentence, and a page with the words that it is said to have."""
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert rule["annotations"]["summary"].endswith(".")
    page, _, words = rule["annotations"]["runbook"].partition(", ")
    text = (ROOT / page).read_text().replace("`", "")
    assert words.strip('"') in text


def test_every_alert_comes_in_a_trial() -> None:
    """The trials make each of them come, which its expression then can."""
    cases = [case for trial in TRIALS for case in trial["alert_rule_test"]]
    came = {case["alertname"] for case in cases if case.get("exp_alerts")}
    assert came == {rule["alert"] for rule in RULES}


def test_trials_have_the_series_that_are_exported() -> None:
    """A label or a name that nobody exports would let an alert come in the trial only."""
    exported = find_all() | {"up": frozenset(OF_PROMETHEUS)}
    series = some(item["series"] for trial in TRIALS for item in trial["input_series"])
    for name, labels in (re.fullmatch(r"(\w+)\{(.*)\}", each).groups() for each in series):
        assert set(re.findall(r"(\w+)=", labels)) <= exported[name] | OF_PROMETHEUS


def test_the_rule_of_the_operator_is_made_of_the_file() -> None:
    """By the command of the page, less kubectl."""
    text = (ROOT / "cluster/README.md").read_text()
    (command,) = re.findall(r"^(\{ .*PrometheusRule[^`]*) \|\s*kubectl apply", text, re.M)
    made = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, check=True)
    rule = yaml.safe_load(made.stdout)
    assert (rule["kind"], rule["apiVersion"]) == ("PrometheusRule", "monitoring.coreos.com/v1")
    assert rule["spec"]["groups"] == GROUPS


def test_pods_are_scraped_at_ports_that_they_have() -> None:
    """The operator passes over a port that no container names, without a word."""
    ray, gpus = (
        item["spec"] for item in yaml.safe_load_all((MONITORING / "podmonitor.yaml").read_text())
    )
    (pod, *_) = find_pods(build(KUBERAY / "base"))
    (container,) = pod["spec"]["containers"]
    ports = {port["name"] for port in container["ports"]}
    assert {endpoint["port"] for endpoint in ray["podMetricsEndpoints"]} <= ports
    assert ray["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert gpus["podMetricsEndpoints"]


def test_pods_report_their_disk() -> None:
    """Without this variable Ray 2.60 reports an empty disk of a byte in a pod."""
    name = "RAY_DASHBOARD_ENABLE_K8S_DISK_USAGE"
    assert f"{name}=1" in (KUBERAY / "base/ray.env").read_text().splitlines()
    spec = find_spec("ray")
    assert spec is not None
    assert spec.origin is not None
    agent = Path(spec.origin).parent / "dashboard/modules/reporter/reporter_agent.py"
    assert name in agent.read_text()


def test_jobs_have_the_same_names_everywhere() -> None:
    """Alerts and panels tell scrapes by their job, with the operator and without."""
    config = yaml.safe_load((MONITORING / "prometheus.yaml").read_text())
    monitors = yaml.safe_load_all((MONITORING / "podmonitor.yaml").read_text())
    relabelled = {
        rule["replacement"]
        for monitor in monitors
        for endpoint in monitor["spec"]["podMetricsEndpoints"]
        for rule in endpoint["relabelings"]
        if rule["targetLabel"] == "job"
    }
    assert relabelled == {job["job_name"] for job in config["scrape_configs"]}
    asked = {job for expression in expressions() for job in re.findall(r'job="(\w+)"', expression)}
    assert asked <= relabelled
