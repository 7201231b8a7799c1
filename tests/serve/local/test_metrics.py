"""What the running service exports, and what alerts and dashboard ask of it."""

from __future__ import annotations

import re

import pytest

from tests.cluster.exporters import DCGM, find_all
from tests.cluster.test_monitoring import NAME, expressions
from tests.serve.service import Service, scrape

pytestmark = pytest.mark.serve

NOT_HERE = {
    *DCGM,
    "ray_serve_app_audit_failing",  # with audit
    "ray_serve_app_audit_missed_total",  # with audit
    "ray_serve_app_audit_waiting",  # with audit
    "ray_serve_app_cost_total",  # with prices
    "ray_serve_app_draft_tokens_total",  # with a cascade
    "ray_serve_app_kv_free_ratio",  # with routing.load
    "ray_serve_app_routing_drift",  # after 500 calls
    "ray_serve_app_routing_strong_ratio",  # with routing.strong_ratio_target
    "ray_serve_app_routing_threshold",  # with routing.strong_ratio_target
    "ray_serve_app_saved_cost_total",  # with prices
    "ray_vllm_num_preemptions_total",  # once an engine has preempted a call
    "ray_vllm_prefix_cache_hits_total",  # once a prompt was in the cache
}


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
