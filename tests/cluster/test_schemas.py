"""Kubernetes' own objects against Kubernetes' own schemas; unknown fields are errors."""

from __future__ import annotations

import re
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from serve_app.config.app import complete_runtime
from serve_app.config.haproxy import HAProxyLimits, read_limits
from serve_app.config.reader import read_serve_config
from tests.cluster.found import some
from tests.cluster.kustomization import KUBERAY, Object, build, find_pods, load_all

ROOT = Path(__file__).parents[2]
LEFT_OUT = {"RayService", "ConfigMap"}
"""Kubernetes has no schema of the first; kustomize makes the second of a generator's line."""

COMPONENTS = [f"../../components/{name}" for name in ("ingress",)]
SETS = {
    "dev": build(KUBERAY / "overlays/dev"),
    "prod": build(KUBERAY / "overlays/prod", *COMPONENTS),
    "models": build(KUBERAY / "models"),
}
VERSIONS = ["1.32", "1.37"]
"""The oldest that we name, and the newest that the package knows."""


def own_objects(name: str) -> list[Object]:
    """Objects of Kubernetes' own kinds, and as Pods the templates of all others."""
    own = [item for item in SETS[name] if item["kind"] not in LEFT_OUT]
    templates = [pod for item in SETS[name] for pod in find_pods(item)]
    return own + [{"apiVersion": "v1", "kind": "Pod", **template} for template in templates]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", SETS)
def test_objects_are_what_kubernetes_takes(name: str, version: str) -> None:
    """Each field is known and of its type."""
    for item in some(own_objects(name)):
        kubernetes_validate.validate(item, version, strict=True)


def test_a_wrong_field_is_found() -> None:
    """The schemas really are strict, deep in a pod too."""
    (pod, *_) = [item for item in own_objects("prod") if item["kind"] == "Pod"]
    pod["spec"]["containers"][0]["imagePullPolice"] = "Always"
    with pytest.raises(kubernetes_validate.ValidationError, match="imagePullPolice"):
        kubernetes_validate.validate(pod, VERSIONS[-1], strict=True)


def ways_in() -> list[Object]:
    return [
        load_all(KUBERAY / "components/ingress/ingress.yaml")[0],
        load_all(KUBERAY / "components/gateway/httproute.yaml")[0],
    ]


def test_ways_in_are_open_as_long_as_a_call() -> None:
    """No proxy ends a stream, or an answer in one piece, before the Router would."""
    configs = some((ROOT / "configs").glob("*.yaml"))
    longest_s = max(read_serve_config(path).runtime.deadlines.total_s for path in configs)
    for way in ways_in():
        timeouts = re.findall(r"(?:imeout|timeout_seconds|equest)[\"']?[:=]\s*'?(\w+)", str(way))
        assert len(timeouts) >= 2
        assert all(int(found.removesuffix("s")) >= longest_s for found in timeouts)


def test_ways_in_pass_bodies_on_that_a_router_takes() -> None:
    """The Router refuses what is longer, with an error of the API."""
    limits = re.findall(r"body-size': '(\d+)m'", str(ways_in()))
    assert len(limits) == 2
    for path in some((ROOT / "configs").glob("*.yaml")):
        config = read_serve_config(path)
        bytes_max = complete_runtime(config.runtime, config.app.tiers).limits.body_bytes_max
        assert all(int(limit) * 1024**2 >= bytes_max for limit in limits)


@pytest.mark.parametrize("name", ["gateway", "ingress"])
def test_ways_in_are_not_one_client(name: str) -> None:
    """HAProxy does not hold the connections of all callers against the proxy before it."""
    settings = yaml.safe_load((KUBERAY / f"components/{name}/kustomization.yaml").read_text())
    (generator,) = settings["configMapGenerator"]
    assert (generator["name"], generator["behavior"]) == ("ray-environment", "merge")
    variable, _, addresses = generator["literals"][0].partition("=")
    unlimited = read_limits({variable: addresses}).unlimited_addresses
    assert set(HAProxyLimits().unlimited_addresses) < set(unlimited)


def test_ways_in_lead_to_the_public_port() -> None:
    """By the name that KubeRay gives the service, and the port of the config."""
    port = read_serve_config(ROOT / "configs/prod.yaml").document["http_options"]["port"]
    ingress, route = ways_in()
    (rule,) = ingress["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    assert path["backend"]["service"] == {"name": "serve-app-serve-svc", "port": {"number": port}}
    (rule,) = route["spec"]["rules"]
    assert rule["backendRefs"] == [{"name": "serve-app-serve-svc", "port": port}]
