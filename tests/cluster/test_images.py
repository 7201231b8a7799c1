"""The Dockerfiles and compose.yaml: rules of linters, and that they speak of what is there."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from serve_app.config.environment import deployed_environment
from serve_app.config.reader import read_serve_config
from tests.cluster.found import some

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "cluster/docker"
every_dockerfile = pytest.mark.parametrize("name", ["Dockerfile.cpu", "Dockerfile.gpu"])


def instructions(name: str) -> list[tuple[str, str]]:
    """Each instruction with its arguments, lines joined, comments gone."""
    lines = (DOCKER / name).read_text().splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    joined = text.replace("\\\n", " ").splitlines()
    return [(w[0], w[2].strip()) for w in (line.partition(" ") for line in joined if line.strip())]


def arguments(name: str, instruction: str) -> list[str]:
    return [rest for word, rest in instructions(name) if word == instruction]


@every_dockerfile
def test_bases_are_pinned_to_the_patch(name: str) -> None:
    """Two builds of one commit start from one release of Python."""
    for base in arguments(name, "FROM"):
        assert re.fullmatch(r"python:\d+\.\d+\.\d+-slim-bookworm( AS build)?", base)
    assert len({base.removesuffix(" AS build") for base in arguments(name, "FROM")}) == 1


@every_dockerfile
def test_the_container_is_nobody_in_particular(name: str) -> None:
    """The last USER is a number other than root's, so that Kubernetes can check it."""
    after_base = [w for w, _ in instructions(name)].index("USER")
    assert arguments(name, "USER") == ["1000:1000"]
    assert all(word != "RUN" for word, _ in instructions(name)[after_base:])


@every_dockerfile
def test_health_is_asked_of_the_service(name: str) -> None:
    """By the one path that says that a Router lives, with nothing but Python."""
    (check,) = arguments(name, "HEALTHCHECK")
    assert "http://127.0.0.1:8000/health'" in check
    assert check.startswith("--interval")


@every_dockerfile
def test_pip_caches_nothing_and_follows_the_locks(name: str) -> None:
    """An image holds each wheel once; versions are those of the lock."""
    runs = arguments(name, "RUN")
    commands = [part for run in runs for part in run.split("&&")]
    by_pip = [command for command in commands if "pip install" in command]
    by_lock = [command for command in commands if "tools/install.py" in command]
    some([*by_pip, *by_lock])
    for command in by_pip:
        assert "--no-cache-dir" in command
        assert re.search(r" pip==|--no-deps --(require-hashes -r|no-build-isolation) ", command)
    if by_lock:
        assert "PIP_NO_CACHE_DIR=1" in arguments(name, "ENV")
    for command in some(command for command in commands if "apt-get install" in command):
        assert "--no-install-recommends" in command
        assert any("rm -rf /var/lib/apt/lists/*" in run for run in runs if command in run)


@every_dockerfile
def test_nothing_secret_comes_in(name: str) -> None:
    """No build argument or variable is a password, and the builder sees a list of known files."""
    assert arguments(name, "ARG") == []
    assert arguments(name, "ADD") == []
    for variable in arguments(name, "ENV"):
        assert not re.search(r"token|secret|password|key=", variable, re.IGNORECASE)
    ignored = (DOCKER / f"{name}.dockerignore").read_text().splitlines()
    assert next(line for line in ignored if not line.startswith("#")) == "*"


@every_dockerfile
def test_what_is_copied_exists_and_reaches_the_builder(name: str) -> None:
    """Each source is a file of the project that .dockerignore lets through."""
    allowed = {
        line.removeprefix("!")
        for line in (DOCKER / f"{name}.dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    copies = [shlex.split(copied) for copied in arguments(name, "COPY")]
    own = some(sources for *sources, _ in copies if not sources[0].startswith("--from"))
    for source in some(source for sources in own for source in sources):
        assert (ROOT / source).exists()
        assert source in allowed


def test_the_image_serves_a_config_that_loads() -> None:
    """The generated one, from configs/local.yaml, on the container's address."""
    config = read_serve_config(DOCKER / "serve.yaml")
    assert config.document["http_options"]["host"] == "0.0.0.0"
    assert [tier.source for tier in config.app.tiers] == ["demo:fast", "demo:strong"]


# --- compose.yaml ---


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    return document


def test_compose_has_the_whole_of_one_machine(compose: dict[str, Any]) -> None:
    """Without profiles: one command starts all."""
    assert set(compose["services"]) == {"redis", "head", "deploy", "prometheus", "grafana"}
    assert all("profiles" not in service for service in compose["services"].values())


def test_compose_services_are_hardened(compose: dict[str, Any]) -> None:
    """No capabilities, no new privileges, bounded memory and logs, an image that does not move."""
    for name, service in some(compose["services"].items()):
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["mem_limit"], name
        assert service["logging"]["options"]["max-size"], name
        assert re.search(r":v?\d+\.\d+\.\d+", service["image"]), name
        assert "healthcheck" in service, name
        assert not service.get("privileged"), name


def test_compose_opens_the_loopback_alone(compose: dict[str, Any]) -> None:
    """And what opens nothing has no way out."""
    opened = {
        name: service["ports"]
        for name, service in compose["services"].items()
        if "ports" in service
    }
    assert set(opened) == {n for n, s in compose["services"].items() if "front" in s["networks"]}
    for port in some(port for ports in opened.values() for port in ports):
        assert port.startswith("127.0.0.1:")
    assert compose["networks"]["inside"] == {"internal": True}


def test_compose_refers_to_what_is_defined(compose: dict[str, Any]) -> None:
    """Networks, volumes, secrets, services and files that are mounted."""
    services = some(compose["services"].values())

    def named(key: str) -> set[str]:
        """What all services together name under a key."""
        return set(some(name for service in services for name in service.get(key, [])))

    assert named("networks") == set(compose["networks"])
    assert named("secrets") == set(compose["secrets"])
    assert named("depends_on") <= set(compose["services"])
    mounted = {volume.split(":")[0] for volume in named("volumes")}
    files = {source for source in mounted if source.startswith(".")}
    assert mounted - files == set(compose["volumes"])
    for file in some([*files, *named("env_file")]):
        assert (DOCKER / file).exists(), file


def test_compose_keeps_secrets_in_files_that_git_ignores(compose: dict[str, Any]) -> None:
    """No password is in compose.yaml or in an environment variable."""
    for secret in some(compose["secrets"].values()):
        assert secret["file"].startswith("./secrets/")
    assert "/secrets/" in (DOCKER / ".gitignore").read_text().splitlines()
    variables = [
        v for service in compose["services"].values() for v in service.get("environment", {})
    ]
    for variable in some(v for v in variables if re.search("TOKEN|PASSWORD", v)):
        assert variable.endswith(("_PATH", "__FILE"))


def test_compose_prometheus_asks_where_ray_answers(compose: dict[str, Any]) -> None:
    """The port of the scrape config is the one that Ray is started with."""
    prometheus = yaml.safe_load((ROOT / "cluster/monitoring/prometheus.yaml").read_text())
    targets = {
        job["job_name"]: job["static_configs"][0]["targets"] for job in prometheus["scrape_configs"]
    }
    command = " ".join(compose["services"]["head"]["command"])
    assert targets["ray"] == ["head:8080"]
    assert "--metrics-export-port=8080" in command


@pytest.fixture(scope="module")
def docker_compose() -> list[str]:
    """The real command, of a version that knows all that compose.yaml uses; skips without one."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) and compose_version(command) >= COMPOSE_MIN:
            return command
    pytest.skip("no Docker Compose 2.24 or newer, neither `docker compose` nor `docker-compose`")


COMPOSE_MIN = (2, 24)


def compose_version(command: list[str]) -> tuple[int, ...]:
    """Its major and minor version; of a docker without Compose, nothing."""
    result = subprocess.run(
        [*command, "version", "--short"], capture_output=True, text=True, check=False
    )
    found = re.match(r"v?(\d+)\.(\d+)", result.stdout)
    return tuple(map(int, found.groups())) if found else ()


def compose_config(docker_compose: list[str], file: Path) -> subprocess.CompletedProcess[str]:
    """`config` resolves and validates; it needs no daemon."""
    command = [*docker_compose, "--file", str(file), "config", "--format", "json"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_docker_compose_takes_the_file(docker_compose: list[str], compose: dict[str, Any]) -> None:
    """Anchors, the environment file and every key, as Compose itself reads them."""
    result = compose_config(docker_compose, DOCKER / "compose.yaml")
    assert (result.returncode, result.stderr) == (0, "")
    resolved = json.loads(result.stdout)
    assert set(resolved["services"]) == set(compose["services"])
    for name, service in some(resolved["services"].items()):
        assert {port["host_ip"] for port in service.get("ports", [])} <= {"127.0.0.1"}, name
        assert int(service["mem_limit"]) > 0, name
    head = resolved["services"]["head"]
    assert deployed_environment().items() <= head["environment"].items()
    assert {secret["target"] for secret in head["secrets"]} == {
        "/run/secrets/ray_auth_token",
        "/run/secrets/redis_password",
    }


def test_docker_compose_would_find_a_mistake(docker_compose: list[str], tmp_path: Path) -> None:
    """A key that Compose does not know is an error, so that the test before means something."""
    shutil.copytree(DOCKER, tmp_path / "docker")
    file = tmp_path / "docker/compose.yaml"
    file.write_text(file.read_text().replace("shm_size:", "shm_sise:"))
    result = compose_config(docker_compose, file)
    assert result.returncode != 0
    assert "shm_sise" in result.stderr


# --- models.sh ---


def run_models(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = ["sh", str(DOCKER / "models.sh"), *map(str, arguments)]
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": programs}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A list of two models, the first of which has been verified."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    (tmp_path / "one/SHA256SUMS").touch()
    path = tmp_path / "models.txt"
    path.write_text(f"# a comment\nhub/one {tmp_path}/one\nhub/two {tmp_path}/two\n")
    return path


def test_a_model_that_is_missing_is_named(models: Path) -> None:
    """The pod's init container ends with it, before a replica would die of it."""
    result = run_models("check", models)
    assert result.returncode == 1
    assert result.stderr == (
        f"{models.parent}/two is not in the model cache, or has not been verified\n"
    )
    (models.parent / "two/SHA256SUMS").touch()
    assert run_models("check", models).returncode == 0


def test_a_model_is_verified_once_and_compared_ever_after(tmp_path: Path) -> None:
    """The first look writes the sums; a file that changes after it is found."""
    model = tmp_path / "model"
    shutil.copytree(ROOT / "serve_app/demo/checkpoints/fast", model)
    (model / "SHA256SUMS").unlink()
    (model / ".cache").mkdir()
    path = tmp_path / "models.txt"
    path.write_text(f"hub/model {model}\n")
    first = run_models("verify", path)
    assert (first.returncode, f"{model}: good" in first.stdout) == (0, True), first.stderr
    assert run_models("check", path).returncode == 0
    (model / "config.json").write_text("{}")
    again = run_models("verify", path)
    assert again.returncode == 1
    assert f"{model}: NOT to be served" in again.stdout


def test_a_wrong_use_is_explained() -> None:
    """Exit code 2 and the usage."""
    result = run_models("pull")
    assert result.returncode == 2
    assert result.stderr.startswith("usage:")
