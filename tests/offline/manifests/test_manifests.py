"""What follows from a config for the machines it is deployed on, and the files that say so."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from serve_app.cli.main import app
from serve_app.config.app import AppConfig
from serve_app.config.environment import deployed_environment
from serve_app.config.reader import ServeConfig, read_serve_config
from serve_app.deploy.pools import plan_machines, plan_pods
from serve_app.offline.manifests.deployed import deploy_document
from serve_app.offline.manifests.files import POD, find_drift, render_manifests, write_manifests
from serve_app.offline.manifests.pools import drain_s, head_cpus, move_s
from serve_app.offline.manifests.render import render_node, render_patch, render_workers

ROOT = Path(__file__).parents[3]


def config(name: str) -> ServeConfig:
    return read_serve_config(ROOT / "configs" / f"{name}.yaml")


def app_of(*tiers: dict[str, Any], **router: Any) -> AppConfig:
    return AppConfig.model_validate({"tiers": tiers, "router": router})


def load_pod() -> dict[str, Any]:
    pod: dict[str, Any] = yaml.safe_load((ROOT / POD).read_text())
    return pod


def gpu_tier(**keys: Any) -> dict[str, Any]:
    return {"name": "strong", "model_id": "m", "accelerator": "gpu", **keys}


def test_generated_files_are_what_the_configs_say() -> None:
    """Mend it with: serve-app manifests."""
    assert find_drift(ROOT) == []


def test_the_head_computes_only_where_nobody_else_does() -> None:
    """Beside GPU nodes it has no CPUs for replicas; alone it has enough for all of them."""
    assert head_cpus(config("prod").app) == 0
    assert head_cpus(config("local").app) == 1


def test_the_longest_drain_counts() -> None:
    """A Router's streams are as long as its tiers'; on a node replicas start elsewhere first."""
    tier = gpu_tier(drain_timeout_s=100, replicas={"policy": "llm", "start_s": 30})
    assert drain_s(app_of(tier, drain_timeout_s=50)) == 100
    assert drain_s(app_of(tier, drain_timeout_s=200.5)) == 201
    assert move_s(app_of(tier, drain_timeout_s=50)) == 130


def test_a_deployed_config_is_open_and_needs_no_hub() -> None:
    """The port is reachable, weights come from the cache, tiers keep to their pools; no more."""
    before = config("prod")
    after = deploy_document(before, plan_pods(before.app))
    assert after["http_options"] == {**before.document["http_options"], "host": "0.0.0.0"}
    written = after["applications"][0]["args"]["tiers"]
    assert [tier["model_source"] for tier in written] == [
        "/models/Qwen2.5-7B-Instruct",
        "/models/Qwen2.5-72B-Instruct",
    ]
    assert [tier["env"] for tier in written] == [{"HF_HUB_OFFLINE": "1"}] * 2
    assert [tier["placement"]["node_labels"] for tier in written] == [
        {"pool": "fast"},
        {"pool": "strong"},
    ]
    (router,) = after["applications"][0]["deployments"]
    assert router.pop("ray_actor_options") == {
        "num_cpus": 1,
        "runtime_env": {"env_vars": {}},
        "label_selector": {"pool": "router"},
    }
    for tier in written:
        del tier["model_source"], tier["env"], tier["placement"]["node_labels"]
    after["http_options"]["host"] = before.document["http_options"]["host"]
    assert after == before.document


@pytest.mark.parametrize(
    ("source", "deployed"),
    [
        ("/data/model", "/data/model"),
        ("s3://bucket/model", "s3://bucket/model"),
        ("demo:fast", "demo:fast"),
        ("Qwen/Qwen3-8B", "/models/Qwen3-8B"),
    ],
)
def test_only_models_of_a_hub_move(tmp_path: Path, source: str, deployed: str) -> None:
    """A directory, an object store and a demo model are where the config says."""
    path = tmp_path / "serve.yaml"
    tier = {**gpu_tier(), "model_source": source}
    application = {"import_path": "serve_app.app:build", "args": {"tiers": [tier]}}
    path.write_text(yaml.safe_dump({"applications": [application]}))
    document = deploy_document(read_serve_config(path))
    (written,) = document["applications"][0]["args"]["tiers"]
    assert written["model_source"] == deployed
    assert ("env" in written) == (source != deployed)


def test_labels_of_nodes_are_said_to_kubernetes(tmp_path: Path) -> None:
    """A pod's labels are its pool's; which machines it may be on is a rule of its own."""
    text = (ROOT / "configs/prod.yaml").read_text()
    labels = 'node_labels: {rack: "in(a,b)", ray.io/availability-zone: "!c"},'
    path = tmp_path / "serve.yaml"
    path.write_text(text.replace("{gpus_per_node: 8,", "{gpus_per_node: 8, " + labels))
    loaded = read_serve_config(path)
    document = deploy_document(loaded, plan_pods(loaded.app))
    tiers = document["applications"][0]["args"]["tiers"]
    assert [tier["placement"]["node_labels"] for tier in tiers] == [
        {"pool": "fast"},
        {"pool": "strong"},
    ]
    workers = yaml.safe_load(render_workers(loaded.app, load_pod(), "x"))
    fast, strong, router = workers["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    for group in (fast, strong):
        affinity = group["template"]["spec"]["affinity"]["nodeAffinity"]
        [term] = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
        assert term["matchExpressions"] == [
            {"key": "rack", "operator": "In", "values": ["a", "b"]},
            {"key": "topology.kubernetes.io/zone", "operator": "NotIn", "values": ["c"]},
        ]
    assert "affinity" not in router["template"]["spec"]


@pytest.mark.parametrize("name", ["local", "local-tp2", "prod", "prod-fp8", "prod-qwen3"])
def test_the_patch_holds_a_config_that_loads(tmp_path: Path, name: str) -> None:
    """What RayService is given is a config of ours, with the same run-time part."""
    operations = yaml.safe_load(render_patch(config(name), name))
    path = tmp_path / "serve.yaml"
    path.write_text(operations[0]["value"])
    loaded = read_serve_config(path)
    assert [tier.name for tier in loaded.app.tiers] == ["fast", "strong"]
    assert loaded.runtime == config(name).runtime
    assert "&id" not in operations[0]["value"]


def test_environment_files_are_what_ray_needs() -> None:
    """One NAME=VALUE a line, without quotes or export, as systemd and Docker read it."""
    text = render_manifests(ROOT)[Path("cluster/systemd/ray.env")]
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert dict(line.split("=", 1) for line in lines) == deployed_environment()
    assert not set(text) & set("\"'$")


def test_what_a_machine_offers_is_read_by_systemd_as_it_is() -> None:
    """Labels as `ray start` takes them, resources as JSON in single quotes."""
    placement = {
        "node_labels": {"pool": "strong", "zone": "a"},
        "resources_per_replica": {"strong_slot": 1},
    }
    [pool] = plan_machines(app_of(gpu_tier(placement=placement)))
    assert render_node(pool, "x").splitlines()[1:] == [
        "# strong: 1 to 1 machines with at least 20 CPUs and 8 GPUs",
        "NODE_LABELS=pool=strong,zone=a",
        "NODE_RESOURCES='{\"strong_slot\": 1}'",
    ]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of all that the command reads and writes."""
    for name in ("configs", "cluster"):
        shutil.copytree(ROOT / name, tmp_path / name)
    return tmp_path


def test_the_command_writes_what_is_out_of_date(project: Path) -> None:
    """It names what it has written, and has nothing to do the second time."""
    path = project / "configs/prod.yaml"
    path.write_text(path.read_text().replace("max: 4", "max: 6"))
    patch = Path("cluster/kuberay/overlays/prod/workers.yaml")
    (project / "cluster/systemd/ray.env").unlink()
    checked = CliRunner().invoke(app, ["manifests", "--root", str(project), "--check"])
    assert checked.exit_code == 1
    assert checked.stdout.count("out of date") == 5
    written = CliRunner().invoke(app, ["manifests", "--root", str(project)])
    assert (written.exit_code, written.stdout.count(": written")) == (0, 5)
    service = yaml.safe_load((project / patch).read_text())
    groups = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    assert [group["maxReplicas"] for group in groups] == [8, 6, 3]
    assert write_manifests(project) == []
    again = CliRunner().invoke(app, ["manifests", "--root", str(project), "--check"])
    assert (again.exit_code, again.stdout) == (0, "")


def test_the_command_refuses_a_bad_config(project: Path) -> None:
    """Exit code 2 and one message; nothing is written."""
    (project / "configs/prod.yaml").write_text("applications: 1")
    result = CliRunner().invoke(app, ["manifests", "--root", str(project)])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "not a Serve config file" in result.stderr
