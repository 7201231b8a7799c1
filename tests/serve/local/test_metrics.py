"""What the running service exports, and what alerts and dashboards ask of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve_app.audit.seal import write_keys
from tests.batches.receiver import LOOPBACK, SECRET
from tests.cluster.exporters import DCGM, find_all
from tests.cluster.test_monitoring import (
    EVERY_RULE,
    MONITORING,
    NAME,
    OF_PROMETHEUS,
    PANELS,
    RECORDS,
    expressions,
)
from tests.cluster.test_promtool import expand
from tests.serve.prometheus import Prometheus, needs_prometheus, running_prometheus
from tests.serve.service import Service, scrape, wait_for

pytestmark = pytest.mark.serve

WITH_KEYS = {
    "ray_serve_app_audit_failing",  # with audit
    "ray_serve_app_audit_waiting",  # with audit
    "ray_serve_app_batch_lines",  # with batches
    "ray_serve_app_batch_oldest_wait_seconds",  # with batches
    "ray_serve_app_budget_used_ratio",  # with limits.rules
    "ray_serve_app_cache_results_total",  # with cache
    "ray_serve_app_cost_total",  # with prices
    "ray_serve_app_feedback_samples_total",  # with feedback.directory
    "ray_serve_app_feedback_verdicts_total",  # with feedback.directory
    "ray_serve_app_kv_free_ratio",  # with routing.load
    "ray_serve_app_labelled_answers_total",  # with feedback.directory
    "ray_serve_app_routing_drift",  # after a window of calls
    "ray_serve_app_routing_strong_ratio",  # with routing.strong_ratio_target
    "ray_serve_app_routing_strong_ratio_target",  # with routing.strong_ratio_target
    "ray_serve_app_routing_threshold",  # with routing.strong_ratio_target
    "ray_serve_app_saved_cost_total",  # with prices
    "ray_serve_app_tenant_calls_total",  # with access
    "ray_serve_app_tenant_cost_total",  # with access
    "ray_serve_app_tenant_tokens_total",  # with access
    "ray_serve_app_webhook_oldest_wait_seconds",  # with batches.webhooks
}
NEVER_HERE = {
    *DCGM,
    "ray_memory_manager_worker_eviction_total",  # once Ray has killed a process for memory
    "ray_serve_app_audit_missed_total",  # once a call could not be recorded
    "ray_serve_app_certificate_end_seconds",  # with TLS on the public port
    "ray_serve_app_variant_rolled_back",  # with variants
    "ray_serve_app_webhook_attempts_total",  # once a batch has ended
    "ray_serve_app_draft_confidence_bucket",  # with a cascade
    "ray_serve_app_draft_tokens_total",  # with a cascade
    "ray_serve_app_late_calls_total",  # once a call could not begin by its deadline
    "ray_serve_app_prefix_error_tokens",  # with replica_choice: prefix
    "ray_serve_app_prefix_hit_ratio",  # with replica_choice: prefix
    "ray_vllm_num_preemptions_total",  # once an engine has preempted a call
    "ray_vllm_prefix_cache_hits_total",  # once a prompt was in the cache
}
SELDOM = {"ray_node_disk_utilization_percentage"}
"""Set every few seconds, so that a single look at a port hardly sees it."""
NOT_HERE = WITH_KEYS | NEVER_HERE | SELDOM | set(RECORDS)
NO_RESULT = re.compile(r"server_error|false|code=|outcome!=|offset|absent\(")
"""Parts of queries that find nothing while all is well, or while a service is young."""
COMPARED = re.compile(r" (?:[<>]|==) (?:[\d.]+(?: \* \d+)?)$")
RECORDED = re.compile(r"\bserve_app:")
WINDOW = 200


def exported() -> dict[str, set[str]]:
    """The labels of each metric that Ray's ports show."""
    found: dict[str, set[str]] = {}
    for name, labels in re.findall(r"^(\w+)\{(.*)\} \S+$", scrape(), re.MULTILINE):
        found.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))
    return found


def test_alerts_and_panels_ask_for_what_is_exported(local: Service) -> None:
    """Names and labels are those of a running service, but for what needs more than some calls.

    A gauge is there for two exports after it was set, so no single look sees all of them.
    """
    assert local.chat(model="nobody").status_code == 404
    asked = {name for expression in expressions() for name in NAME.findall(expression)} - NOT_HERE
    seen: dict[str, set[str]] = {}
    for _ in range(60):
        for model in ("fast", "strong"):
            assert local.chat(model=model, stream=True).status_code == 200
        for name, labels in exported().items():
            seen.setdefault(name, set()).update(labels)
        if asked <= set(seen):
            break
    assert asked <= set(seen)
    declared = find_all()
    for name in asked:
        assert declared[name] <= seen[name], name


@pytest.fixture(scope="module")
def prometheus(local: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus with the alerts, beside a service whose config has every key."""
    directory = tmp_path_factory.mktemp("prometheus")
    with running_prometheus(directory, [MONITORING / "alerts.yaml"]) as prometheus:
        local.configure(make_config(directory))
        call_all(local)
        wait_for(lambda: not missing(prometheus), timeout_s=90, what=f"{missing(prometheus)}")
        yield prometheus


def make_config(root: Path) -> dict[str, Any]:
    """A `user_config` under which the Router has every metric that needs no failure."""
    write_keys(root / "audit.key")
    (root / "whsec").write_text(SECRET)
    hook = {
        "name": "nobody",
        "url": "http://127.0.0.1:9/",
        "private_networks": LOOPBACK,
        "secret": {"file": str(root / "whsec")},
    }
    return {
        "access": {"anonymous": {"tenant": "acme", "roles": ["user"]}},
        "audit": {"directory": str(root / "audit"), "key_file": str(root / "audit.key")},
        "batches": {"directory": str(root / "batches"), "webhooks": [hook]},
        "cache": {"store": "memory"},
        "feedback": {
            "directory": str(root / "feedback"),
            "sample_ratio": 1,
            "consent": "assumed",
            "text_chars_max": 100_000,
        },
        "limits": {
            "rules": [{"per": "tenant", "tokens_per_day": 1_000_000_000}],
            "store": {"directory": str(root / "limits"), "deadline_s": 10},
        },
        "prices": {
            "tiers": {"fast": {"input": 1, "output": 2}, "strong": {"input": 10, "output": 20}}
        },
        "routing": {"strong_ratio_target": 0.5, "strong_ratio_window": WINDOW},
    }


def call_all(service: Service) -> None:
    """Enough calls for a window of scores, some of them streamed, one with feedback."""
    wait_for(lambda: service.chat().headers.get("x-cache") is not None, timeout_s=60, what="taken")
    for number in range(WINDOW + 20):
        message = {"role": "user", "content": f"What is {number} + {number}?"}
        answer = service.chat(messages=[message], max_tokens=2, stream=number % 5 == 0)
        assert answer.status_code == 200, answer.text
    report = {"request_id": answer.headers["x-request-id"], "right": True}
    assert httpx.post(f"{service.base_url}/v1/feedback", json=report).is_success


def missing(prometheus: Prometheus) -> set[str]:
    """What is asked for, should be here, and has not been scraped yet."""
    asked = {name for expression in expressions() for name in NAME.findall(expression)}
    return asked - NEVER_HERE - set(RECORDS) - prometheus.names()


@needs_prometheus
def test_prometheus_finds_and_scrapes_the_service(prometheus: Prometheus) -> None:
    """By the file that Ray writes; HAProxy's port answers too."""
    assert prometheus.jobs() == {"ray", "haproxy"}
    wait_for(lambda: not prometheus.down(), timeout_s=30, what=f"{prometheus.down()}")


@needs_prometheus
def test_every_metric_has_its_labels_in_prometheus(prometheus: Prometheus) -> None:
    """Those of the sources, from which the other tests take them."""
    declared = find_all()
    asked = {name for expression in expressions() for name in NAME.findall(expression)}
    for name in asked - NEVER_HERE - set(RECORDS):
        assert declared[name] <= prometheus.labels(name) | OF_PROMETHEUS, name


@needs_prometheus
def test_every_panel_has_lines_in_prometheus(prometheus: Prometheus) -> None:
    """Each query parses, and finds something unless it asks for what is not here."""
    for panel in PANELS:
        for target in panel["targets"]:
            query = expand(target["expr"])
            # A series of an hour needs two samples, and labels are made in idle time.
            if not prometheus.find(query) and not is_empty(target["expr"]):
                wait_for(
                    lambda query=query: prometheus.find(query),
                    timeout_s=60,
                    what=f"{panel['title']}: {query}",
                )


@needs_prometheus
def test_every_rule_is_evaluated_by_prometheus(prometheus: Prometheus) -> None:
    """None has an error, and what it compares with its number is there."""
    rules = wait_for(lambda: evaluated(prometheus), timeout_s=30, what="the rules are evaluated")
    assert {rule["name"] for rule in rules} == {
        rule.get("alert") or rule["record"] for rule in EVERY_RULE
    }
    assert not [rule for rule in rules if rule["health"] != "ok"]
    for rule in EVERY_RULE:
        compared = COMPARED.sub("", rule["expr"])
        if "record" in rule or (compared != rule["expr"] and not RECORDED.search(compared)):
            assert prometheus.find(compared) or is_empty(rule["expr"]), rule


def evaluated(prometheus: Prometheus) -> list[dict[str, Any]]:
    rules = prometheus.rules()
    return [] if any(rule["health"] == "unknown" for rule in rules) else rules


def is_empty(expression: str) -> bool:
    """Whether a query may find nothing in a service that is young and well."""
    names = set(NAME.findall(expression))
    return bool(names & NEVER_HERE) or NO_RESULT.search(expression) is not None
