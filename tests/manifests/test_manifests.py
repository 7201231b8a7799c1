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
from serve_app.config.load import ServeConfig, load_serve_config
from serve_app.manifests.deployed import deploy_document
from serve_app.manifests.files import find_drift, render_manifests, write_manifests
from serve_app.manifests.pools import drain_s, head_cpus, move_s, plan_pools
from serve_app.manifests.render import render_patch

ROOT = Path(__file__).parents[2]


def config(name: str) -> ServeConfig:
    return load_serve_config(ROOT / "configs" / f"{name}.yaml")


def app_of(*tiers: dict[str, Any], **router: Any) -> AppConfig:
    return AppConfig.model_validate({"tiers": tiers, "router": router})


def gpu_tier(**keys: Any) -> dict[str, Any]:
    return {"name": "strong", "model_id": "m", "accelerator": "gpu", **keys}


def test_generated_files_are_what_the_configs_say() -> None:
    """Mend it with: serve-app manifests."""
    assert find_drift(ROOT) == []


def test_pools_of_the_production_config() -> None:
    """Eight small replicas share a node, two large ones do; each process and a Router has CPUs."""
    fast, strong = plan_pools(config("prod").app)
    assert (fast.name, fast.nodes_min, fast.nodes_max) == ("fast", 1, 1)
    assert fast.resources == {"CPU": 25, "GPU": 8, "accelerator_type:H100": 1}
    assert (strong.name, strong.nodes_min, strong.nodes_max) == ("strong", 1, 2)
    assert strong.resources == {"CPU": 13, "GPU": 8, "accelerator_type:H100": 1}


@pytest.mark.parametrize(
    ("engine", "gpus_per_node", "replicas", "nodes"),
    [
        ({}, 8, 9, 2),
        ({"tensor_parallel_size": 4}, 8, 3, 2),
        ({"tensor_parallel_size": 3}, 8, 3, 2),
        ({"tensor_parallel_size": 8, "pipeline_parallel_size": 2}, 8, 3, 6),
        ({"tensor_parallel_size": 2, "data_parallel_size": 4}, 8, 3, 3),
    ],
)
def test_nodes_for_replicas(
    engine: dict[str, int], gpus_per_node: int, replicas: int, nodes: int
) -> None:
    """Replicas are not split over nodes, unless they are larger than one."""
    tier = gpu_tier(
        engine=engine,
        placement={"gpus_per_node": gpus_per_node},
        replicas={"min": 1, "max": replicas},
    )
    (pool,) = plan_pools(app_of(tier))
    assert pool.nodes_max == nodes


def test_no_accelerator_type_is_no_resource() -> None:
    """A pool whose GPUs the config does not name offers just GPUs."""
    (pool,) = plan_pools(app_of(gpu_tier(), max_replicas_per_node=1))
    assert pool.resources == {"CPU": 17, "GPU": 8}


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
    after = deploy_document(before, pools=True)
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
    document = deploy_document(load_serve_config(path), pools=False)
    (written,) = document["applications"][0]["args"]["tiers"]
    assert written["model_source"] == deployed
    assert ("env" in written) == (source != deployed)


def test_node_labels_of_the_config_stay(tmp_path: Path) -> None:
    """Whoever has named nodes already gets these, and no pool on top."""
    text = (ROOT / "configs/prod.yaml").read_text()
    labelled = text.replace("{gpus_per_node: 8,", "{gpus_per_node: 8, node_labels: {rack: a},")
    path = tmp_path / "serve.yaml"
    path.write_text(labelled)
    document = deploy_document(load_serve_config(path), pools=True)
    tiers = document["applications"][0]["args"]["tiers"]
    assert [tier["placement"]["node_labels"] for tier in tiers] == [{"rack": "a"}] * 2


@pytest.mark.parametrize("name", ["local", "local-tp2", "prod", "prod-fp8", "prod-qwen3"])
def test_the_patch_holds_a_config_that_loads(tmp_path: Path, name: str) -> None:
    """What RayService is given is a config of ours, with the same run-time part."""
    operations = yaml.safe_load(render_patch(config(name), name))
    path = tmp_path / "serve.yaml"
    path.write_text(operations[0]["value"])
    loaded = load_serve_config(path)
    assert [tier.name for tier in loaded.app.tiers] == ["fast", "strong"]
    assert loaded.runtime == config(name).runtime
    assert "&id" not in operations[0]["value"]


def test_environment_files_are_what_ray_needs() -> None:
    """One NAME=VALUE a line, without quotes or export, as systemd and Docker read it."""
    text = render_manifests(ROOT)[Path("cluster/systemd/ray.env")]
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert dict(line.split("=", 1) for line in lines) == deployed_environment()
    assert not set(text) & set("\"'$")


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
    patch = Path("cluster/kuberay/overlays/prod/generated.yaml")
    (project / "cluster/systemd/ray.env").unlink()
    checked = CliRunner().invoke(app, ["manifests", "--root", str(project), "--check"])
    assert checked.exit_code == 1
    assert checked.stdout.count("out of date") == 2
    written = CliRunner().invoke(app, ["manifests", "--root", str(project)])
    assert (written.exit_code, written.stdout.count(": written")) == (0, 2)
    groups = yaml.safe_load((project / patch).read_text())
    assert [op["value"] for op in groups if op["path"].endswith("1/maxReplicas")] == [3]
    assert write_manifests(project) == []
    again = CliRunner().invoke(app, ["manifests", "--root", str(project), "--check"])
    assert (again.exit_code, again.stdout) == (0, "")


def test_the_command_refuses_a_bad_config(project: Path) -> None:
    """Exit code 2 and one message; nothing is written."""
    (project / "configs/prod.yaml").write_text("applications: 1")
    result = CliRunner().invoke(app, ["manifests", "--root", str(project)])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "not a Serve config file" in result.stderr
