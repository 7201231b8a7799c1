"""cluster/ray-up and cluster/systemd: what `ray up` and systemd would refuse or misread."""

from __future__ import annotations

import json
import re
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from serve_app.config.reader import read_serve_config
from serve_app.deploy.pools import plan_machines
from serve_app.offline.manifests.pools import move_s
from tests.cluster.found import some

ROOT = Path(__file__).parents[2]
RAY_UP = ROOT / "cluster/ray-up"
SYSTEMD = ROOT / "cluster/systemd"
PROD = read_serve_config(ROOT / "configs/prod.yaml").app
every_cluster = pytest.mark.parametrize("name", ["aws", "on-premise"])
every_unit = pytest.mark.parametrize("name", ["ray-head", "ray-worker", "serve-app"])


def cluster(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((RAY_UP / f"{name}.yaml").read_text())
    return document


@every_cluster
def test_ray_up_takes_the_file(name: str) -> None:
    """By the schema that comes with the pinned Ray."""
    spec = find_spec("ray")
    assert spec is not None
    assert spec.origin is not None
    schema = Path(spec.origin).parent / "autoscaler/ray-schema.json"
    jsonschema.validate(cluster(name), json.loads(schema.read_text()))


@every_cluster
def test_every_node_starts_with_the_environment_and_the_token(name: str) -> None:
    """A node that lacks it would behave differently from the others."""
    config = cluster(name)
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        *_, start = config[key]
        assert start.startswith('eval "$(~/serve-app/.venv/bin/serve-app env)"; ')
        assert "export RAY_AUTH_MODE=token; " in start
        assert "ray start --" in start
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"


@every_cluster
def test_commands_are_shell(name: str) -> None:
    """bash can parse each of them."""
    config = cluster(name)
    lists = [config[key] for key in config if key.endswith("_commands")]
    for command in some(command for commands in lists for command in commands):
        assert subprocess.run(["bash", "-n", "-c", command], check=False).returncode == 0


def test_node_types_on_aws_are_the_pools_of_the_config() -> None:
    """By name, number, resources and label; a head without replicas comes on top."""
    config = cluster("aws")
    types = config["available_node_types"]
    head = types.pop(config["head_node_type"])
    assert head["resources"] == {"CPU": 0}
    assert set(types) == {pool.name for pool in plan_machines(PROD)}
    for pool in some(plan_machines(PROD)):
        node = types[pool.name]
        assert (node["min_workers"], node["max_workers"]) == (pool.nodes_min, pool.nodes_max)
        assert node["resources"] == pool.resources
        assert node.get("labels", {}) == pool.labels
    assert config["max_workers"] == sum(pool.nodes_max for pool in plan_machines(PROD))


def test_machines_on_premise_are_as_many_as_the_config_needs() -> None:
    """At most: the list does not grow by itself."""
    config = cluster("on-premise")
    needed = sum(pool.nodes_max for pool in plan_machines(PROD))
    assert len(config["provider"]["worker_ips"]) == config["max_workers"] == needed


def test_nothing_on_aws_is_open_to_the_world() -> None:
    """The public port and SSH answer a private network, and disks are encrypted."""
    config = cluster("aws")
    for rule in some(config["provider"]["security_group"]["IpPermissions"]):
        assert [block["CidrIp"] for block in rule["IpRanges"]] == ["10.0.0.0/8"]
    for node in some(config["available_node_types"].values()):
        assert node["node_config"]["BlockDeviceMappings"][0]["Ebs"]["Encrypted"] is True
        assert node["node_config"]["MetadataOptions"] == {"HttpTokens": "required"}


# --- systemd ---


def unit(name: str) -> dict[str, list[str]]:
    """`Section.Key` of a unit with all its values, drop-ins included."""
    settings: dict[str, list[str]] = {}
    drop_ins = sorted((SYSTEMD / f"{name}.service.d").glob("*.conf"))
    for path in (SYSTEMD / f"{name}.service", *drop_ins):
        section = ""
        for line in path.read_text().splitlines():
            if not line or line.startswith("#"):
                continue
            if header := re.fullmatch(r"\[(\w+)\]", line):
                section = header[1]
                continue
            key, equals, value = line.partition("=")
            assert equals, f"{path.name}: {line}"
            assert re.fullmatch(r"[A-Z][A-Za-z0-9]+", key), f"{path.name}: {line}"
            settings.setdefault(f"{section}.{key}", []).append(value)
    return settings


@every_unit
def test_units_run_as_somebody_who_may_little(name: str) -> None:
    """No root, no capabilities, the system read-only; and nothing that Ray does not live with."""
    settings = unit(name)
    assert settings["Service.User"] == ["serve-app"]
    assert settings["Service.NoNewPrivileges"] == ["yes"]
    assert settings["Service.CapabilityBoundingSet"] == [""]
    assert settings["Service.ProtectSystem"] == ["strict"]
    assert settings["Service.ReadWritePaths"] == ["/tmp"]
    assert "Service.PrivateTmp" not in settings
    assert "Service.MemoryDenyWriteExecute" not in settings
    assert ("Service.PrivateDevices" in settings) == (name != "ray-worker")


@every_unit
def test_units_have_the_environment_and_the_token(name: str) -> None:
    """The generated file, and a token that is in no environment."""
    settings = unit(name)
    assert "/etc/serve-app/ray.env" in settings["Service.EnvironmentFile"]
    environment = settings["Service.Environment"]
    assert {"RAY_AUTH_MODE=token", "RAY_AUTH_TOKEN_PATH=%d/ray_auth_token"} <= set(environment)
    assert settings["Service.LoadCredential"] == ["ray_auth_token:/etc/serve-app/ray_auth_token"]


@every_unit
def test_units_call_programs_of_the_project(name: str) -> None:
    """By their full path, from one virtual environment."""
    settings = unit(name)
    commands = some(
        value for key in settings if key.startswith("Service.Exec") for value in settings[key]
    )
    for command in commands:
        command = command.removeprefix("-")
        assert "/opt/serve-app/.venv/bin/" in command
        assert command.startswith(("/opt/serve-app/.venv/bin/", "/bin/sh -c "))
        subprocess.run(["bash", "-n", "-c", command], check=True)


@pytest.mark.parametrize("name", ["ray-head", "ray-worker"])
def test_variables_of_a_node_are_in_its_file(name: str) -> None:
    """Whatever a command takes from the environment is in node.env or in the unit."""
    settings = unit(name)
    files = [SYSTEMD / "node.env", *(SYSTEMD / "nodes").glob("*.env")]
    lines = [line for path in files for line in path.read_text().splitlines()]
    given = {line.split("=")[0] for line in lines}
    given |= {value.split("=")[0] for value in settings["Service.Environment"]}
    commands = " ".join(settings["Service.ExecStart"] + settings.get("Service.ExecStop", []))
    assert set(some(re.findall(r"\$\{(\w+)\}", commands))) <= given


def test_a_worker_offers_what_its_pool_does() -> None:
    """Labels and resources come from the file of the machine's pool, one argument each."""
    (start,) = unit("ray-worker")["Service.ExecStart"]
    assert " --labels=${NODE_LABELS} --resources=${NODE_RESOURCES}" in start
    files = {path.stem for path in (SYSTEMD / "nodes").glob("*.env")}
    assert files == {pool.name for pool in plan_machines(PROD)}
    for name in some(files):
        text = (SYSTEMD / "nodes" / f"{name}.env").read_text()
        lines = [line.split("=")[0] for line in text.splitlines() if not line.startswith("#")]
        assert lines == ["NODE_LABELS", "NODE_RESOURCES"]


@pytest.mark.parametrize("name", ["ray-head", "ray-worker"])
def test_nothing_of_ray_outlives_its_unit(name: str) -> None:
    """The main process is asked, all others of its group are killed after it: HAProxy, engines."""
    settings = unit(name)
    assert settings["Service.KillMode"] == ["mixed"]
    assert settings["Service.Restart"] == ["always"]


def test_a_worker_drains_before_it_stops() -> None:
    """For a start and the config's longest drain, and systemd waits for that."""
    settings = unit("ray-worker")
    (stop,) = settings["Service.ExecStop"]
    assert stop.endswith("serve-app drain-node --wait-s ${DRAIN_S}")
    assert f"DRAIN_S={move_s(PROD)}" in settings["Service.Environment"]
    assert int(settings["Service.TimeoutStopSec"][0]) > move_s(PROD)


# --- what is installed on GPU nodes ---


@pytest.mark.parametrize(
    "name",
    [
        "docs/deploy.md",
        "cluster/README.md",
        "cluster/docker/Dockerfile.gpu",
        "cluster/ray-up/aws.yaml",
        "cluster/ray-up/on-premise.yaml",
    ],
)
def test_gpu_nodes_install_the_lock_and_nothing_beside_it(name: str) -> None:
    """By every way alike: the lock with its sums, then this project without dependencies."""
    text = (ROOT / name).read_text()
    command = r"pip install (?:--no-cache-dir )?+(?!pip==|boto3==)(.+?)(?: \\)?\n"
    commands = re.findall(command, text)
    lock, project = (re.sub(r"~/serve-app/?|--editable ", "", command) for command in commands)
    assert lock == "--no-deps --require-hashes -r requirements/gpu.txt"
    assert project.rstrip(" .") == "--no-deps --no-build-isolation"


@pytest.mark.parametrize(
    "name",
    [
        "docs/deploy.md",
        "cluster/README.md",
        "cluster/docker/Dockerfile.gpu",
        "cluster/ray-up/aws.yaml",
    ],
)
def test_gpu_nodes_have_the_compilers_that_engines_need(name: str) -> None:
    """Triton's launchers need gcc and Python's headers, which the image's base has; no nvcc."""
    (packages,) = re.findall(
        r"apt-get install (?:-y )?(?:--no-\S+ )?(.+)", (ROOT / name).read_text()
    )
    assert {"gcc", "g++", "libnuma1"} <= set(packages.replace("`", " ").split())
    assert ("python3-dev" in packages) == (not name.endswith("Dockerfile.gpu"))
    assert "cuda" not in packages
