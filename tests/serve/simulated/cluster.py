"""Nodes that claim to have GPUs, and an application on them as its operator sees it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import ray
from ray import serve
from ray.cluster_utils import Cluster

from serve_app.config.app import AppConfig
from serve_app.config.environment import ray_environment
from serve_app.config.serve_file import ROUTER_NAME
from serve_app.deploy.cluster_nodes import read_groups
from tests.serve.service import ROOT, dashboard, free_port, wait_for

IMPORT_PATH = "tests.serve.simulated.application:build"
"""By name: this process imports vLLM for other tests, and the application does without."""
START_S = 180.0
NAME = "llm"


class SimulatedCluster:
    """A cluster, and what Ray's dashboard tells of the application on it."""

    def __init__(self, nodes: Cluster, dashboard_url: str) -> None:
        self.nodes = nodes
        self.port = free_port()
        self.base_url = f"http://127.0.0.1:{self.port}"
        self._dashboard = dashboard(dashboard_url)

    def deploy(
        self,
        config: AppConfig,
        *,
        policy: dict[str, Any] | None = None,
        replicas: Mapping[str, int] | None = None,
        router: dict[str, Any] | None = None,
    ) -> None:
        """What `serve deploy` does with a file; returns before anything runs.

        `replicas` take the place of a tier's own. Where they alone change, Serve goes on with the
        replicas that are there; another `config`, or a tier more in `replicas`, replaces all.
        `router` are Serve's options of the Router's deployment.
        """
        application = {
            "name": NAME,
            "import_path": IMPORT_PATH,
            "runtime_env": {"env_vars": {"PYTHONPATH": str(ROOT)}},
            "args": config.model_dump(mode="json", by_alias=True, exclude_unset=True),
            "autoscaling_policy": policy,
            "deployments": [
                {
                    "name": f"tier-{tier}",
                    "autoscaling_config": {"min_replicas": count, "max_replicas": count},
                }
                for tier, count in (replicas or {}).items()
            ]
            + ([{"name": ROUTER_NAME, **router}] if router else []),
        }
        self._put([application])

    def clear(self) -> None:
        """Take the application away, and wait until it holds no GPU any more."""
        self._put([])
        wait_for(
            lambda: all(group["state"] == "REMOVED" for group in read_groups().values()),
            timeout_s=60,
            what="all placement groups are gone",
        )

    def _put(self, applications: list[dict[str, Any]]) -> None:
        document = {
            "proxy_location": "HeadOnly",
            "http_options": {"host": "127.0.0.1", "port": self.port},
            "applications": applications,
        }
        answer = self._dashboard.put("/api/serve/applications/", json=document)
        assert answer.is_success, answer.text

    def application(self) -> dict[str, Any]:
        """What the dashboard shows of the application; empty before there is one."""
        answer = self._dashboard.get("/api/serve/applications/")
        found: dict[str, Any] = answer.json()["applications"].get(NAME, {})
        return found

    def wait_running(self) -> None:
        """Until what was deployed last runs."""
        wait_for(
            lambda: self._settled()["status"] == "RUNNING",
            timeout_s=START_S,
            what="the application runs",
        )

    def _settled(self) -> dict[str, Any]:
        application = self.application()
        assert application.get("status") != "DEPLOY_FAILED", application["message"]
        return application or {"status": "NOT_STARTED"}

    def nodes_of(self, deployment: str) -> set[str]:
        """The ids of the nodes on which its replicas run."""
        found = self.application().get("deployments", {}).get(deployment, {}).get("replicas", [])
        return {replica["node_id"] for replica in found if replica["state"] == "RUNNING"}

    def running(self, tier: str) -> int:
        """The replicas of a tier that take calls."""
        deployments = self.application().get("deployments", {})
        replicas = deployments.get(f"tier-{tier}", {}).get("replicas", [])
        return [replica["state"] for replica in replicas].count("RUNNING")

    def close(self) -> None:
        """Close the connection to the dashboard."""
        self._dashboard.close()


@contextmanager
def ray_variables() -> Iterator[None]:
    """What `serve-app env` sets on every node, as far as a test's own process bears it."""
    variables = ray_environment(haproxy=False)
    # With it the driver, which is this process, waits for all children: exit codes would be lost.
    del variables["RAY_kill_child_processes_on_worker_exit_with_raylet_subreaper"]
    # No load balancer has to notice that a Router goes.
    variables["RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S"] = "1"
    # Serve's controller loads policies of these tests.
    variables["PYTHONPATH"] = str(ROOT)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        yield


@contextmanager
def gpu_cluster(*nodes: dict[str, Any]) -> Iterator[SimulatedCluster]:
    """A head without GPUs and these nodes; all of it ends with the block."""
    port = free_port()
    head = {"num_cpus": 4, "include_dashboard": True, "dashboard_port": port}
    with ray_variables():
        cluster = Cluster(initialize_head=True, head_node_args=head)
        found = SimulatedCluster(cluster, f"http://127.0.0.1:{port}")
        try:
            for node in nodes:
                cluster.add_node(**node)
            cluster.wait_for_nodes()
            ray.init(address=cluster.address, namespace="serve", log_to_driver=False)
            yield found
        finally:
            found.close()
            if ray.is_initialized():
                serve.shutdown()
                ray.shutdown()
            cluster.shutdown()


def gpu_node(gpus: int, kind: str = "H100", zone_slots: int = 0, **labels: str) -> dict[str, Any]:
    """The arguments of `Cluster.add_node` for a node that claims so many GPUs."""
    return {
        "num_cpus": 16,
        "num_gpus": gpus,
        "resources": {f"accelerator_type:{kind}": 1, "zone_slot": zone_slots},
        "labels": labels,
    }
