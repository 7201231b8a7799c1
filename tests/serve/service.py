"""A real service for tests: `serve-app up` in a process of its own, with Ray and vLLM below it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
import ray
import yaml
from ray import serve
from ray.serve.context import _set_global_client
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview
from ray.util.state import list_actors

from serve_app.cli import processes
from serve_app.config.dashboard import AUTH_TOKEN, DASHBOARD

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
START_S = 300.0

EXPORT_S = 0.5
FAST_METRICS = {"RAY_metrics_report_interval_ms": f"{EXPORT_S * 1000:.0f}"}
"""Ray exports every 10 s by default; tests that read counters would wait for that."""


def wait_for(condition: Callable[[], T], *, timeout_s: float, what: str) -> T:
    """Poll until `condition` is true, and return what it returned."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.1)
    raise TimeoutError(f"not within {timeout_s:g} s: {what}")


def settled(read: Callable[[], T], *, timeout_s: float = 30) -> T:
    """What an exported metric says, once it has said the same in three exports."""
    seen: list[T] = []

    def steady() -> bool:
        time.sleep(EXPORT_S)
        seen.append(read())
        return len(seen) >= 3 and seen[-1] == seen[-2] == seen[-3]

    wait_for(steady, timeout_s=timeout_s, what="the metric is steady")
    return seen[-1]


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Service:
    """A running service as its clients, its operator and Ray see it."""

    def __init__(self, base_url: str, config: Path, run_dir: Path) -> None:
        self.base_url = base_url
        self.config = config
        self.run_dir = run_dir
        self._document = run_dir / "serve.yaml"
        self._is_edited = False

    def chat(self, timeout_s: float = 60, **body: Any) -> httpx.Response:
        """One chat completion."""
        document = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8, **body}
        url = f"{self.base_url}/v1/chat/completions"
        return httpx.post(url, json=document, timeout=timeout_s)

    def replicas(self, deployment: str) -> list[Any]:
        """The Ray actors of a deployment's replicas."""
        found = list_actors(
            # Without it Ray looks for clusters, and fails if another one runs on this machine.
            address=ray.get_runtime_context().gcs_address,
            filters=[
                ("state", "=", "ALIVE"),
                ("class_name", "=", f"ServeReplica:llm:{deployment}"),
            ],
        )
        return [ray.get_actor(actor.name, namespace="serve") for actor in found]

    def ongoing(self, deployment: str) -> int:
        """What Ray itself counts as ongoing on a deployment, and scales and drains by."""
        actors = self.replicas(deployment)
        return sum(ray.get([actor.get_num_ongoing_requests.remote() for actor in actors]))

    def processes(self) -> list[psutil.Process]:
        """Every process of the service, orphans included."""
        return processes.marked(self.run_dir)

    def replica_processes(self, deployment: str) -> list[psutil.Process]:
        """The replica processes of a deployment."""
        title = f"ray::ServeReplica:llm:{deployment}"
        return [process for process in self.processes() if title in _title(process)]

    def engine_processes(self) -> set[int]:
        """The ids of every vLLM engine process."""
        return {process.pid for process in self.processes() if "VLLM::" in _title(process)}

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a Prometheus metric over everything Ray exports."""
        text = scrape()
        return sum(
            float(line.rsplit(" ", 1)[1])
            for line in text.splitlines()
            if line.startswith(name + "{")
            and all(f'{label}="{value}"' in line for label, value in labels.items())
        )

    def metric_by(self, name: str, label: str) -> dict[str, float]:
        """The sums of a Prometheus metric for each value of a label."""
        text = scrape()
        found = re.findall(rf'^{name}{{.*?{label}="([^"]*)".*}} (\S+)$', text, re.MULTILINE)
        sums: dict[str, float] = {}
        for value, count in found:
            sums[value] = sums.get(value, 0.0) + float(count)
        return sums

    def deploy(self, user_config: dict[str, Any]) -> None:
        """What an operator does to change the run-time config: edit the file, `serve deploy`."""
        path = self.run_dir / "edited.yaml"
        path.write_text(yaml.safe_dump(self._edited(user_config)))
        command = [tool("serve"), "deploy", str(path)]
        with self._deploying():
            subprocess.run(command, check=True, capture_output=True)

    def configure(self, user_config: dict[str, Any]) -> None:
        """The same as `deploy`, by the request that the command sends after two seconds."""
        self._put(self._edited(user_config))

    def apply(self, document: dict[str, Any]) -> None:
        """Deploy a whole file; returns when Serve calls the application running."""
        self._is_edited = True
        self._put(document)

    def restore(self) -> None:
        """Back to the config that the service was started with, whatever has been deployed."""
        if self._is_edited:
            self._put(yaml.safe_load(self._document.read_text()))
            self._is_edited = False

    def _edited(self, user_config: dict[str, Any]) -> dict[str, Any]:
        document: dict[str, Any] = yaml.safe_load(self._document.read_text())
        document["applications"][0]["deployments"][0]["user_config"] = user_config
        self._is_edited = True
        return document

    def _put(self, document: dict[str, Any]) -> None:
        with self._deploying(), dashboard(DASHBOARD) as client:
            answer = client.put("/api/serve/applications/", json=document)
            assert answer.is_success, answer.text

    @contextmanager
    def _deploying(self) -> Iterator[None]:
        before = _application().last_deployed_time_s
        yield
        wait_for(
            lambda: (
                _application().last_deployed_time_s > before
                and _application().status == ApplicationStatus.RUNNING
            ),
            timeout_s=240,
            what="the config is deployed",
        )


def dashboard(base_url: str) -> httpx.Client:
    """A client of Ray's dashboard."""
    # Ray asks for the token as soon as there is one on this machine, and otherwise not.
    headers = {}
    if AUTH_TOKEN.exists():
        headers["Authorization"] = f"Bearer {AUTH_TOKEN.read_text().strip()}"
    return httpx.Client(base_url=base_url, headers=headers, timeout=30)


def _application() -> ApplicationStatusOverview:
    return serve.status().applications["llm"]


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def scrape() -> str:
    """All metrics that Ray's nodes export."""
    return "".join(httpx.get(f"http://{target}/metrics").text for target in _targets())


def _targets() -> list[str]:
    found = yaml.safe_load(Path("/tmp/ray/prom_metrics_service_discovery.json").read_text())
    return [target for group in found for target in group["targets"]]


def tool(name: str) -> str:
    """The path of a command of this environment."""
    return str(Path(sys.executable).with_name(name))


@contextmanager
def running_service(config: Path, run_dir: Path, *options: str) -> Iterator[Service]:
    """Start a service, connect to its Ray, and end both; nothing of it may be left."""
    port = free_port()
    environment = {**os.environ, "SERVE_APP_RUN": str(run_dir), **FAST_METRICS}
    log = run_dir.parent / f"{run_dir.name}.log"
    with log.open("wb") as output:
        child = subprocess.Popen(
            [tool("serve-app"), "up", str(config), "--port", str(port), *options],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    service = Service(f"http://127.0.0.1:{port}", config, run_dir)
    try:
        _wait_ready(service, child, log)
        ray.init(address="auto", namespace="serve", log_to_driver=False)
        yield service
    finally:
        # Serve would take the next cluster for this one: it compares the number of the job alone.
        _set_global_client(None)
        ray.shutdown()
        if child.poll() is None:
            child.send_signal(signal.SIGTERM)
        try:
            child.wait(60)
        finally:
            left = service.processes()
            processes.end(left, grace_s=3)
    assert not left, f"left behind: {[_title(process) for process in left]}"


def _wait_ready(service: Service, child: subprocess.Popen[bytes], log: Path) -> None:
    def ready() -> bool:
        if child.poll() is not None:
            raise ChildProcessError(log.read_text()[-4000:])
        try:
            return httpx.get(f"{service.base_url}/ready", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    try:
        wait_for(ready, timeout_s=START_S, what="the service is ready")
    except TimeoutError:
        raise TimeoutError(log.read_text()[-4000:]) from None


def listening_on(process: psutil.Process) -> set[tuple[str, int]]:
    """The addresses at which a process takes TCP connections."""
    return {
        connection.laddr
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
