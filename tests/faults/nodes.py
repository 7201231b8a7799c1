"""A Ray cluster of several machines with the service on it, and clients that tell what they got."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from serve_app.config.environment import ray_environment
from tests.faults.network import CLIENT, Machine, network
from tests.routing.prompts import HARD_EN
from tests.serve.service import ROOT, dashboard, tool, wait_for

GCS_PORT = 6379
PUBLIC_PORT = 8000
REDIS_PORT = 7379
START_S = 240.0
OBJECT_STORE_BYTES = 100_000_000
HEAD, FAST, STRONG = "head", "fast", "strong"
UNIT = """
while :; do
  {command} >> /tmp/ray-start.log 2>&1
  kill -9 -1
  sleep 1
done
"""
"""What `cluster/systemd` asks for: Restart=always, and all that a unit leaves behind is ended."""


def node_environment() -> dict[str, str]:
    """What `serve-app env` sets on every node, for machines that share this computer's cores."""
    return {
        **{name: value for name, value in os.environ.items() if "proxy" not in name.lower()},
        **ray_environment(),
        "RAY_AUTH_MODE": "token",
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }


class NodeCluster:
    """Ray on machines: the head and one machine for each tier."""

    def __init__(self, machines: Mapping[str, Machine], environment: Mapping[str, str]) -> None:
        self.machines = machines
        self._environment = environment

    @property
    def head(self) -> Machine:
        """The machine with Ray's GCS and Serve's controller, and without a Router."""
        return self.machines[HEAD]

    def url(self, name: str) -> str:
        """The public address of a machine."""
        return f"http://{self.machines[name].address}:{PUBLIC_PORT}"

    def start_ray(self, name: str) -> None:
        """`ray start` on a machine, again whenever it has ended, as the units of systemd do it."""
        machine = self.machines[name]
        where = ["--address", f"{self.head.address}:{GCS_PORT}", "--num-cpus", "4"]
        where += ["--labels", f"pool={name}", "--resources", json.dumps({slot_of(name): 1})]
        if name == HEAD:
            where = ["--head", "--port", str(GCS_PORT), "--num-cpus", "0"]
            where += ["--dashboard-host", machine.address]
        own = ["--block", "--node-ip-address", machine.address, "--disable-usage-stats"]
        own += ["--object-store-memory", str(OBJECT_STORE_BYTES)]
        command = shlex.join([tool("ray"), "start", *own, *where])
        machine.begin("sh", "-c", UNIT.format(command=command), environment=self._environment)

    def wait_nodes(self, timeout_s: float = 90) -> None:
        """Wait until Ray knows every machine."""
        wait_for(
            lambda: len(self.alive()) == len(self.machines),
            timeout_s=timeout_s,
            what="every machine is a node",
        )

    def alive(self) -> set[str]:
        """The addresses of the nodes that Ray counts as alive."""
        try:
            with dashboard(f"http://{self.head.address}:8265") as client:
                nodes = client.get("/api/v0/nodes").json()["data"]["result"]["result"]
        except (httpx.HTTPError, KeyError, TypeError, ValueError):
            return set()
        return {node["node_ip"] for node in nodes if node["state"] == "ALIVE"}

    def restart(self, name: str) -> None:
        """Switch a stopped machine on again, with Ray."""
        self.machines[name].start()
        self.start_ray(name)

    def deploy(self, config: Mapping[str, Any]) -> None:
        """`serve deploy` on the head, and wait until both public addresses are ready."""
        path = self.head.directory / "serve.yaml"
        path.write_text(yaml.safe_dump(dict(config)))
        url = f"http://{self.head.address}:8265"
        words = (tool("serve"), "deploy", "/tmp/serve.yaml", "--address", url)
        self.head.run(*words, environment=self._environment)
        self.wait_whole()

    def wait_whole(self, timeout_s: float = START_S) -> float:
        """Wait until the service is whole: the seconds that it took."""
        began_at = time.monotonic()
        wait_for(self.is_whole, timeout_s=timeout_s, what="both public addresses are ready")
        return time.monotonic() - began_at

    def is_whole(self) -> bool:
        """Whether each address says that all tiers are ready, and each tier answers there."""
        return all(is_ready(self.url(name)) for name in (FAST, STRONG))

    def is_running(self) -> bool:
        """Whether Serve's controller tells that the service runs."""
        try:
            return bool(self.applications()["applications"]["llm"]["status"] == "RUNNING")
        except (httpx.HTTPError, KeyError, ValueError):
            return False

    def applications(self) -> dict[str, Any]:
        """What Ray's dashboard tells of the service."""
        with dashboard(f"http://{self.head.address}:8265") as client:
            found: dict[str, Any] = client.get("/api/serve/applications/").json()
        return found


def slot_of(name: str) -> str:
    """The resource that only this machine has."""
    return f"{name}_slot"


def is_ready(url: str) -> bool:
    """Whether `/ready` is 200, and every tier answers."""
    try:
        if httpx.get(f"{url}/ready", timeout=5, trust_env=False).status_code != 200:
            return False
        return all(ask(url, model, tokens=1).outcome == "answered" for model in (FAST, STRONG))
    except httpx.HTTPError:
        return False


@dataclass(frozen=True, slots=True)
class Told:
    """What a client got for one call; times are those of the monotonic clock."""

    outcome: str
    """`answered`, `refused`, `failed` with a reason, `broken` without, or `silent`: cut short."""
    tier: str
    reason: str
    began_at: float
    first_at: float
    ended_at: float

    @property
    def lasted_s(self) -> float:
        """The seconds from the call to its outcome."""
        return self.ended_at - self.began_at


def ask(url: str, model: str, *, tokens: int, timeout_s: float = 120.0) -> Told:
    """One streamed call, to its end."""
    body = {
        "model": model,
        # Left to itself the Router would send this to `strong`.
        "messages": [{"role": "user", "content": HARD_EN[0]}],
        "max_tokens": tokens,
        "stream": True,
    }
    began_at = first_at = time.monotonic()
    tier, lines = "", list[str]()
    try:
        with httpx.stream(
            "POST", f"{url}/v1/chat/completions", json=body, timeout=timeout_s, trust_env=False
        ) as response:
            tier = response.headers.get("x-route-tier", "")
            for line in response.iter_lines():
                if not lines:
                    first_at = time.monotonic()
                if line:
                    lines.append(line)
        outcome, reason = judge(response.status_code, lines)
    except httpx.HTTPError as error:
        outcome, reason = "broken", type(error).__name__
    return Told(outcome, tier, reason, began_at, first_at, time.monotonic())


def judge(status: int, lines: Sequence[str]) -> tuple[str, str]:
    """The outcome and the reason of a call, from the answer's status and its lines."""
    if status != 200:
        outcome = "refused" if status in (429, 503) else "failed"
        return outcome, f"{status} {error_code(lines)}"
    if lines and lines[-1] == "data: [DONE]":
        said = error_code(lines[-2:-1])
        return ("failed", said) if said else ("answered", "")
    said = error_code(lines[-1:])
    return ("failed", said) if said else ("silent", "")


def error_code(lines: Sequence[str]) -> str:
    """The code of the error that these lines hold, empty if they hold none."""
    try:
        document = json.loads("".join(lines).removeprefix("data: "))
    except json.JSONDecodeError:
        return ""
    error = document.get("error") if isinstance(document, dict) else None
    return str(error.get("code")) if error else ""


class Callers:
    """Clients that call one address, each anew as soon as it has its outcome."""

    def __init__(self, url: str, model: str, *, clients: int, tokens: int) -> None:
        self.told: list[Told] = []
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._call, args=(url, model, tokens)) for _ in range(clients)
        ]

    def _call(self, url: str, model: str, tokens: int) -> None:
        while not self._stopped.is_set():
            told = ask(url, model, tokens=tokens)
            self.told.append(told)
            if told.outcome != "answered":
                self._stopped.wait(0.1)

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def since(self, moment: float) -> list[Told]:
        """The calls that began later."""
        return [told for told in self.told if told.began_at > moment]

    def across(self, moment: float) -> list[Told]:
        """The calls that were in flight at a moment."""
        return [told for told in self.told if told.began_at <= moment < told.ended_at]


def count(told: Sequence[Told]) -> Counter[tuple[str, str, str]]:
    """The calls by outcome, tier and reason."""
    return Counter((each.outcome, each.tier, each.reason) for each in told)


@contextmanager
def redis_beside(directory: Path) -> Iterator[str]:
    """A Redis at the test's own address, as a machine of its own would be: host and port."""
    directory.mkdir(parents=True, exist_ok=True)
    program = shutil.which("redis-server")
    assert program is not None
    command = [program, "--port", str(REDIS_PORT), "--bind", CLIENT, "--protected-mode", "no"]
    command += ["--dir", str(directory), "--save", "", "--appendonly", "yes"]
    with (
        (directory / "redis.log").open("ab") as log,
        subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *command], stdout=log, stderr=log
        ) as process,
    ):
        try:
            yield f"{CLIENT}:{REDIS_PORT}"
        finally:
            process.terminate()


@contextmanager
def node_cluster(directory: Path) -> Iterator[NodeCluster]:
    """Ray on three machines, its head's knowledge in Redis."""
    with (
        network([HEAD, FAST, STRONG], directory) as machines,
        redis_beside(directory / "redis") as redis,
    ):
        cluster = NodeCluster(machines, {**node_environment(), "RAY_REDIS_ADDRESS": redis})
        for name in machines:
            cluster.start_ray(name)
        cluster.wait_nodes()
        yield cluster


def simulated_config() -> dict[str, Any]:
    """Both tiers simulated, each on a machine of its own, with a Router beside each."""
    tiers = [
        {
            "name": name,
            "model_id": f"sim-{name}",
            "model_source": "demo:fast",
            "accelerator": "cpu",
            "engine": {"pace_s": 0.05, "directory": "/tmp"},
            "placement": {"cpus_per_server": 0.1},
            "replicas": {"min": 1, "max": 1},
            "max_ongoing_calls": 64,
        }
        for name in (FAST, STRONG)
    ]
    # A simulated replica has no placement group, which `placement.node_labels` would need.
    deployments = [
        {
            "name": f"tier-{name}",
            "ray_actor_options": {"num_cpus": 0.1, "resources": {slot_of(name): 0.1}},
        }
        for name in (FAST, STRONG)
    ]
    router = {"replicas": {"min": 2, "max": 2}, "cpus": 0.1, "max_replicas_per_node": 1}
    application = {
        "name": "llm",
        "route_prefix": "/",
        "import_path": "serve_app.cli.simulated_app:build",
        "args": {"tiers": tiers, "router": router},
        "deployments": deployments,
    }
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": "0.0.0.0", "port": PUBLIC_PORT},
        "applications": [application],
    }


def local_config() -> dict[str, Any]:
    """`configs/local.yaml` with real engines, its tiers and two Routers on two machines."""
    document: dict[str, Any] = yaml.safe_load((ROOT / "configs" / "local.yaml").read_text())
    [application] = document["applications"]
    for tier in application["args"]["tiers"]:
        tier["placement"] = {**tier["placement"], "node_labels": {"pool": tier["name"]}}
    router = {"replicas": {"min": 2, "max": 2}, "cpus": 0.2, "max_replicas_per_node": 1}
    application["args"]["router"] = router
    http_options = {"host": "0.0.0.0", "port": PUBLIC_PORT}
    return {**document, "proxy_location": "EveryNode", "http_options": http_options}
