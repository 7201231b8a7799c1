"""The Helm chart: its values, and that it says what the Kustomize overlays say."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.cluster.found import some
from tests.cluster.kustomization import KUBERAY, Object, build, find_containers, find_pods
from tests.cluster.test_schemas import VERSIONS, ways_in

ROOT = Path(__file__).parents[2]
CHART = ROOT / "cluster/helm/serve-app"
DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
VALUES = ROOT / "cluster/helm/values"
GENERATED = {path.stem: yaml.safe_load(path.read_text()) for path in sorted(VALUES.glob("*.yaml"))}
HELM = shutil.which("helm")
WAYS_IN = ("--set", "ingress.enabled=true,gateway.enabled=true,podMonitor.enabled=true")
MADE_BY_HELM = ("app.kubernetes.io/managed-by", "helm.sh/chart")

every_config = pytest.mark.parametrize("name", GENERATED)
needs_helm = pytest.mark.skipif(HELM is None, reason="needs helm, which renders offline")


def complete(name: str) -> Object:
    """The values as helm sees them."""
    values: Object = copy.deepcopy(DEFAULTS)
    for key, value in GENERATED[name].items():
        values[key] = {**values[key], **value} if key == "head" else value
    return values


def run_helm(*arguments: str) -> str:
    assert HELM is not None
    done = subprocess.run([HELM, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def render(name: str, *options: str) -> list[Object]:
    overlay = yaml.safe_load((KUBERAY / f"overlays/{name}/kustomization.yaml").read_text())
    values = str(VALUES / f"{name}.yaml")
    command = [
        "template",
        "serve-app",
        str(CHART),
        "--namespace",
        overlay["namespace"],
        "-f",
        values,
    ]
    return [item for item in yaml.safe_load_all(run_helm(*command, *options)) if item]


# --- without helm ---


def test_the_chart_has_the_version_of_the_project() -> None:
    """The image's tag too."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert chart["version"] == chart["appVersion"] == version
    assert DEFAULTS["image"]["tag"] == f"{version}-gpu"
    base = yaml.safe_load((KUBERAY / "base/rayservice.yaml").read_text())
    ray = base["spec"]["rayClusterConfig"]["rayVersion"]
    assert f"rayVersion: {ray}\n" in (CHART / "templates/rayservice.yaml").read_text()


@every_config
def test_values_are_what_the_schema_allows(name: str) -> None:
    """Those that come with the chart, and those with the config's on top."""
    jsonschema.validate(DEFAULTS, SCHEMA)
    jsonschema.validate(complete(name), SCHEMA)


@pytest.mark.parametrize(
    "path", [("imagee",), ("image", "tagg"), ("pools", 0, "minReplica"), ("head", "resource")]
)
def test_a_misspelt_value_is_refused(path: tuple[Any, ...]) -> None:
    """Helm itself passes over a value that no template reads."""
    values = complete("prod")
    *way, last = path
    at: Any = values
    for part in way:
        at = at[part]
    at[last] = {}
    with pytest.raises(jsonschema.ValidationError, match=last):
        jsonschema.validate(values, SCHEMA)


def test_templates_read_values_that_there_are() -> None:
    """By the schema: helm renders a value that is not there as nothing."""
    sources = [path.read_text() for path in some((CHART / "templates").iterdir())]
    asked = {path for source in sources for path in re.findall(r"\.Values((?:\.\w+)+)", source)}
    for path in some(asked):
        at = SCHEMA
        for part in path.split(".")[1:]:
            at = at["properties"][part]
    pool = SCHEMA["properties"]["pools"]["items"]["properties"]
    (worker,) = [source for source in sources if 'serve-app.worker" -' in source]
    assert set(some(re.findall(r"\.pool\.(\w+)", worker))) <= set(pool)


# --- with helm ---


@needs_helm
@every_config
def test_the_chart_passes_helms_own_checks(name: str) -> None:
    """Strictly: a warning is a failure."""
    values = str(VALUES / f"{name}.yaml")
    run_helm("lint", "--strict", str(CHART), "-f", values, *WAYS_IN)


@needs_helm
def test_the_chart_says_what_kustomize_says() -> None:
    """Object by object: whoever installs by the one gets the service of the other."""
    rendered = {key(item): plain(item) for item in render("prod") if item["kind"] != "ConfigMap"}
    built = {
        key(item): plain(item)
        for item in build(KUBERAY / "overlays/prod")
        if item["kind"] not in ("ConfigMap", "Namespace")
    }
    assert rendered.keys() == built.keys()
    for each, item in built.items():
        assert rendered[each] == item


@needs_helm
def test_the_chart_of_one_node_says_what_kustomize_says() -> None:
    """But for the memory of its pod, which the overlay sets by hand."""
    (rendered,) = [plain(item) for item in render("dev") if item["kind"] == "RayService"]
    (built,) = [plain(i) for i in build(KUBERAY / "overlays/dev") if i["kind"] == "RayService"]
    for service in (rendered, built):
        (pod,) = find_pods(service)
        pod["spec"]["containers"][0].pop("resources")
        pod["spec"]["containers"][0].pop("image")
    assert rendered == built


@needs_helm
def test_the_environment_is_that_of_kustomize_and_names_its_map() -> None:
    """Another environment is another name, by which KubeRay starts anew."""
    (rendered,) = [item for item in render("prod") if item["kind"] == "ConfigMap"]
    lines = (KUBERAY / "base/ray.env").read_text().splitlines()
    pairs = [line.split("=", 1) for line in lines if not line.startswith("#")]
    assert rendered["data"] == dict(pairs)
    changed = render("prod", "--set-string", "environment.MORE=1")
    (other,) = [item for item in changed if item["kind"] == "ConfigMap"]
    assert other["metadata"]["name"] != rendered["metadata"]["name"]
    sources = [c["envFrom"] for item in changed for c in find_containers(item) if "envFrom" in c]
    assert {str(source) for source in some(sources)} == {
        str([{"configMapRef": {"name": other["metadata"]["name"]}}])
    }


@needs_helm
@every_config
@pytest.mark.parametrize("version", VERSIONS)
def test_rendered_objects_are_what_kubernetes_takes(name: str, version: str) -> None:
    """Each field is known and of its type, with everything that can be switched on."""
    rendered = render(name, *WAYS_IN)
    others = {"RayService", "PodMonitor", "HTTPRoute"}
    own = [item for item in rendered if item["kind"] not in others]
    pods = [{"apiVersion": "v1", "kind": "Pod", **pod} for i in rendered for pod in find_pods(i)]
    for item in some(own) + some(pods):
        kubernetes_validate.validate(item, version, strict=True)
    assert others <= {item["kind"] for item in rendered}


@needs_helm
def test_ways_in_are_those_of_the_samples() -> None:
    """The same backend, and open as long."""
    rendered = {item["kind"]: item for item in render("prod", *WAYS_IN)}
    ingress, route = ways_in()
    assert rendered["HTTPRoute"]["spec"] == route["spec"]
    assert rendered["Ingress"]["spec"]["rules"] == ingress["spec"]["rules"]
    made = rendered["Ingress"]["metadata"]["annotations"]
    assert made.items() <= ingress["metadata"]["annotations"].items()
    assert any("read-timeout" in name for name in made)


def key(item: Object) -> tuple[str, str]:
    return item["kind"], item["metadata"]["name"]


def plain(item: Object) -> Object:
    """The same without what only one of the two tools adds."""
    text = re.sub(r"ray-environment-[0-9a-f]{10}", "ray-environment", yaml.safe_dump(item))
    found: Object = yaml.safe_load(text)
    for label in MADE_BY_HELM:
        found["metadata"].get("labels", {}).pop(label, None)
    for subject in found.get("subjects", []):
        subject.pop("namespace", None)
    return found
