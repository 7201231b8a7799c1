"""The environment that every Ray process needs; Ray reads it when it is imported."""

from __future__ import annotations

import hashlib
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from serve_app.config.haproxy import METRICS_HOST

RUN_MARKER = "SERVE_APP_RUN_DIR"
"""The variable in every process that `serve-app up` starts, by which `down` finds all of them."""


HAPROXY_ON = "RAY_SERVE_ENABLE_HA_PROXY"
HAPROXY_PROGRAM = "RAY_SERVE_HAPROXY_BINARY_PATH"
PYTHON = "SERVE_APP_PYTHON"
PATHS = frozenset((HAPROXY_PROGRAM, PYTHON))
"""The variables whose values differ from machine to machine."""
PACKAGE = Path(__file__).parents[1]
DEPLOYED = Path("/opt/serve-app")
"""The project's directory on the machines and in the images of `cluster/`."""


def ray_environment(
    *, haproxy: bool = True, python: Path = Path(sys.executable), package: Path = PACKAGE
) -> dict[str, str]:
    """The environment that every node needs before `ray start` or `serve run`.

    - HAProxy and the throughput options double the throughput of Serve (docs/bench-log.md).
    - The subreaper makes the raylet kill the engine's processes when their replica dies. Otherwise
      these processes would hold their GPU.
    - HAProxy is replaced whenever Routers start or stop. The old process may finish its calls for
      an hour, the default of `deadlines.total_s`, instead of two minutes.
    - HAProxy disconnects a client that neither sends nor reads for five minutes, but not a client
      that waits for its answer.
    - A proxy has 30 s to start instead of 5 s. On a busy node Serve would kill the proxy, and
      `serve run` would end with it.
    - Serve looks at its proxies every second instead of every ten. It replaces a proxy whose own
      process was killed after three failures, and the port of the node is closed until then.
    - Ray starts a program of this package as HAProxy. The program amends Ray's configuration
      (`config/haproxy.py`). The callback puts this service's edge before Serve's HTTP layers.
    - A line of a log is written at once. The throughput options would keep a thousand lines in
      memory until an error comes, and Routers log little else than what an operator waits for.
    - Usage statistics are off, because no data may leave the site.
    - Serve packs replicas, the largest first, onto nodes that are in use already. Spread over all
      nodes, small replicas would leave no node with enough free GPUs for a large replica.
    - FlashInfer's sampler and DeepGEMM are off. vLLM selects them by the GPU alone, and they would
      compile CUDA on nodes without a compiler for it (docs/decisions/0011).
    """
    return {
        HAPROXY_ON: "1" if haproxy else "0",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1",
        "RAY_kill_child_processes_on_worker_exit_with_raylet_subreaper": "true",
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "3600",
        "RAY_SERVE_HAPROXY_MAXCONN": "20000",
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "300",
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
        HAPROXY_PROGRAM: str(package / "cli" / "haproxy.sh"),
        PYTHON: str(python),
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serve_app.gateway.edge:build_edge",
        "RAY_SERVE_USE_PACK_SCHEDULING_STRATEGY": "1",
        "VLLM_USE_FLASHINFER_SAMPLER": "0",
        "VLLM_USE_DEEP_GEMM": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    }


def deployed_environment() -> dict[str, str]:
    """The environment of the machines and images of `cluster/`; Prometheus runs elsewhere.

    In a pod Ray would report an empty disk, and no alert would say that it is full.
    """
    python, package = DEPLOYED / ".venv/bin/python", DEPLOYED / "serve_app"
    return {
        **ray_environment(python=python, package=package),
        METRICS_HOST: "0.0.0.0",
        "RAY_DASHBOARD_ENABLE_K8S_DISK_USAGE": "1",
    }


def socket_dir(run_dir: Path) -> Path:
    """A directory for sockets, which vLLM does not remove.

    The path is short, because the path of a socket has at most 107 bytes.
    """
    digest = hashlib.sha256(str(run_dir).encode()).hexdigest()[:10]
    return Path(tempfile.gettempdir()) / f"serve-app-{digest}"


def temporary_environment(run_dir: Path, given: Mapping[str, str]) -> dict[str, str]:
    """The places of temporary files, which killed processes leave behind.

    `serve-app up` removes the directory of its own at each start and end. Ray's sessions stay where
    Ray would have put them.
    """
    return {
        "TMPDIR": str(socket_dir(run_dir) / "tmp"),
        "RAY_TMPDIR": given.get("RAY_TMPDIR") or given.get("TMPDIR") or "/tmp",
    }


def local_environment(run_dir: Path) -> dict[str, str]:
    """The additional environment of a single machine: a directory for sockets, a quick shutdown.

    HAProxy and vLLM keep their sockets there, because vLLM leaves sockets behind when an engine is
    killed. The drain period gives load balancers on other nodes time to react; a single machine
    has none, but a Router must take calls until HAProxy has been replaced. The controller's
    interval is 0.5 s instead of 0.1 s, because it shares the models' cores.
    """
    sockets = socket_dir(run_dir)
    return {
        RUN_MARKER: str(run_dir),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "3",
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(sockets / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(sockets / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(sockets / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(sockets),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(sockets / "server-state"),
        "VLLM_RPC_BASE_PATH": str(sockets),
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
        "OMP_NUM_THREADS": "1",
    }
