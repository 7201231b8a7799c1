"""Manifests of any config: what is written places what is written, and kustomize builds it."""

from __future__ import annotations

import copy
import json
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from ray.serve.schema import ServeDeploySchema
from typer.testing import CliRunner, Result

from serve_app.cli.main import app
from serve_app.config.app import AppConfig
from serve_app.config.reader import IMPORT_PATH, ServeConfig, read_serve_config
from serve_app.config.serve_file import ROUTER_NAME
from serve_app.deploy.fit import Room
from serve_app.deploy.fleet import Named, fit_all
from serve_app.deploy.pools import (
    ROUTER_SLOT,
    fits_on_head,
    list_needs,
    need_of_router,
    plan_machines,
)
from serve_app.offline.manifests.files import POD
from serve_app.offline.manifests.render import render_node, render_patch, render_workers
from tests.cluster.kustomization import Object, build, patch_json
from tests.deploy.apps import documents

ROOT = Path(__file__).parents[3]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
WORKER_POD = yaml.safe_load((ROOT / POD).read_text())

THREE = """
proxy_location: EveryNode
applications:
  - name: llm
    import_path: serve_app.app:build
    args:
      tiers:
        - {name: small_one, model_id: Qwen/Qwen2.5-0.5B-Instruct, accelerator_type: L4}
        - {name: fast, model_id: Qwen/Qwen2.5-7B-Instruct, accelerator_type: H100}
        - name: strong
          model_id: Qwen/Qwen2.5-72B-Instruct
          accelerator_type: H100
          engine: {tensor_parallel_size: 4}
          placement: {node_labels: {zone: "!c"}, resources_per_replica: {strong_slot: 1}}
          replicas: {min: 2, max: 2}
      router: {replicas: {min: 2, max: 4}, max_replicas_per_node: 1}
"""


def run(*arguments: object) -> Result:
    """The command in this process."""
    return CliRunner().invoke(app, ["manifests", *map(str, arguments)])


# --- what is generated, read back ---


def read(text: str) -> Any:
    """The YAML of a generated file; libyaml reads it ten times faster than Python."""
    return yaml.load(text, yaml.CSafeLoader)


def rooms_of_groups(spec: Object, size: str) -> list[Room]:
    """The nodes that KubeRay would start; of a head without pools, that one."""
    cluster = spec["rayClusterConfig"]
    groups = cluster.get("workerGroupSpecs")
    if not groups:
        return [_room({}, cluster["headGroupSpec"]["resources"])]
    return [
        _room(group["labels"], group["resources"]) for group in groups for _ in range(group[size])
    ]


def _room(labels: dict[str, str], resources: dict[str, str]) -> Room:
    amounts = {name: float(amount) for name, amount in resources.items()} | {ROUTER_SLOT: 1.0}
    return Room(labels, amounts, amounts, {})


def needs_of(config: ServeConfig, *, most: bool) -> list[Named]:
    """What is deployed, with the Router's labels as Serve is told them."""
    *tiers, (name, _, routers) = list_needs(config.app, most=most)
    [ours] = [a for a in config.document["applications"] if a["import_path"] == IMPORT_PATH]
    labels: dict[str, str] = {}
    for deployment in ours.get("deployments", []):
        if deployment["name"] == ROUTER_NAME:
            labels = deployment.get("ray_actor_options", {}).get("label_selector", {})
    return [*tiers, (name, need_of_router(config.app.router, labels), routers)]


def check_service(spec: Object, tmp_path: Path) -> None:
    """The nodes of a RayService hold what it deploys, at the fewest replicas and at the most."""
    path = tmp_path / "served.yaml"
    path.write_text(spec["serveConfigV2"])
    config = read_serve_config(path)
    ServeDeploySchema.model_validate(config.document)
    for size, most in (("minReplicas", False), ("maxReplicas", True)):
        rooms = rooms_of_groups(spec, size)
        assert fit_all(needs_of(config, most=most), rooms) == {}


def render_service(config: ServeConfig) -> Object:
    """The generated files, on as much of a RayService as they patch."""
    head: Object = {"template": {"spec": {"containers": [{}]}}}
    service: Object = {"spec": {"rayClusterConfig": {"headGroupSpec": head}}}
    if not fits_on_head(config.app):
        workers = read(render_workers(config.app, copy.deepcopy(WORKER_POD), "x"))
        service["spec"]["rayClusterConfig"] |= workers["spec"]["rayClusterConfig"]
    patch_json(service, read(render_patch(config, "x")))
    spec: Object = service["spec"]
    return spec


def config_of(arguments: dict[str, Any], tmp_path: Path) -> ServeConfig:
    path = tmp_path / "config.yaml"
    application = {"name": "llm", "import_path": IMPORT_PATH, "args": arguments}
    path.write_text(yaml.safe_dump({"applications": [application]}))
    return read_serve_config(path)


def read_env(text: str) -> dict[str, str]:
    """An environment file, of which systemd reads quotes as a shell does."""
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    return dict("".join(shlex.split(line)).split("=", 1) for line in lines)


def check_machines(config: AppConfig) -> None:
    """Machines that start Ray with their env file hold all replicas."""
    for most in (False, True):
        rooms = []
        for pool in plan_machines(config):
            env = read_env(render_node(pool, "x"))
            labels = dict(pair.split("=") for pair in env["NODE_LABELS"].split(",") if pair)
            # What Ray finds on the machine by itself; the rest it is told.
            found = {name: n for name, n in pool.resources.items() if name not in pool.custom}
            room = _room(labels, {**found, **json.loads(env["NODE_RESOURCES"])})
            rooms += [room] * (pool.nodes_max if most else pool.nodes_min)
        assert fit_all(list_needs(config, most=most), rooms) == {}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_generated_nodes_hold_a_shipped_config(tmp_path: Path, path: Path) -> None:
    """Pods of Kubernetes, and machines with systemd."""
    check_service(render_service(read_serve_config(path)), tmp_path)
    check_machines(read_serve_config(path).app)


anything = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@anything
@given(documents())
def test_generated_pods_hold_any_config(tmp_path: Path, arguments: dict[str, Any]) -> None:
    """Whatever it says of labels, slots, strategies, GPUs and Routers."""
    check_service(render_service(config_of(arguments, tmp_path)), tmp_path)


@anything
@given(documents())
def test_generated_machines_hold_any_config(tmp_path: Path, arguments: dict[str, Any]) -> None:
    """The same, where tiers share machines."""
    check_machines(config_of(arguments, tmp_path).app)


# --- the folder ---


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """A config of three tiers on two kinds of GPU."""
    path = tmp_path / "three.yaml"
    path.write_text(THREE)
    return path


def test_a_folder_of_three_tiers(tmp_path: Path, three: Path) -> None:
    """Every file is written, and as much of kustomize as the tests have builds it."""
    out = tmp_path / "deploy"
    written = run(three, "--out", out, "--root", ROOT)
    assert written.exit_code == 0, written.output
    assert {line.removesuffix(": written") for line in written.stdout.splitlines()} == {
        "helm/values.yaml",
        "kuberay/generated.yaml",
        "kuberay/kustomization.yaml",
        "kuberay/namespace.yaml",
        "kuberay/poddisruptionbudgets.yaml",
        "kuberay/workers.yaml",
        "models/kustomization.yaml",
        "models/models.txt",
        "systemd/nodes/h100.env",
        "systemd/nodes/small-one.env",
        "systemd/ray-worker.service.d/drain.conf",
        "systemd/serve.yaml",
    }
    [service] = [o for o in build(out / "kuberay") if o["kind"] == "RayService"]
    check_service(service["spec"], tmp_path)
    groups = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    assert [group["groupName"] for group in groups] == ["small-one", "fast", "strong", "router"]


def test_what_is_yours_stays(tmp_path: Path, three: Path) -> None:
    """The image in the kustomization is not written over; what follows from the config is."""
    out = tmp_path / "deploy"
    run(three, "--out", out, "--root", ROOT)
    own = out / "kuberay/kustomization.yaml"
    own.write_text(own.read_text().replace("registry.example.org", "mine.example.org"))
    three.write_text(THREE.replace("max: 4", "max: 5"))
    again = run(three, "--out", out, "--root", ROOT)
    assert "kuberay/workers.yaml: written" in again.stdout
    assert "kustomization" not in again.stdout
    assert "mine.example.org" in own.read_text()


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl, which builds offline")
@pytest.mark.parametrize("name", ["prod-qwen3", "local", "three"])
def test_kustomize_builds_a_generated_folder(tmp_path: Path, three: Path, name: str) -> None:
    """With the real one, as `kubectl apply -k` would."""
    out = tmp_path / "deploy"
    config = three if name == "three" else ROOT / f"configs/{name}.yaml"
    assert run(config, "--out", out, "--root", ROOT).exit_code == 0
    for folder, kind in (("kuberay", "RayService"), ("models", "Job")):
        command = ["kubectl", "kustomize", str(out / folder)]
        built = subprocess.run(command, capture_output=True, text=True, check=False)
        assert built.returncode == 0, built.stderr
        [found] = [o for o in yaml.safe_load_all(built.stdout) if o["kind"] == kind]
        if kind == "RayService":
            check_service(found["spec"], tmp_path)


def test_a_config_that_no_nodes_could_hold_is_refused(tmp_path: Path, three: Path) -> None:
    """By name, with exit code 2 and no files."""
    engine = "{tensor_parallel_size: 4, pipeline_parallel_size: 4}"
    text = THREE.replace("{tensor_parallel_size: 4}", engine)
    three.write_text(text.replace('{node_labels: {zone: "!c"},', "{strategy: STRICT_PACK,"))
    result = run(three, "--out", tmp_path / "deploy", "--root", ROOT)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "tiers.strong: a replica needs 16 GPUs on one node, and nodes have 8" in result.stderr
    assert not (tmp_path / "deploy").exists()


@pytest.mark.parametrize(
    "arguments",
    [("configs/prod.yaml",), ("--out", "x"), ("configs/prod.yaml", "--out", "x", "--check")],
)
def test_arguments_that_do_not_go_together(arguments: tuple[str, ...]) -> None:
    """Exit code 2 before anything is written."""
    assert run(*arguments).exit_code == 2
