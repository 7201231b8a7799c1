"""The environment that every Ray process needs; Ray reads it when it is imported."""

from __future__ import annotations

import hashlib
import sys
import tempfile
from pathlib import Path

from serve_app.config.haproxy import METRICS_HOST

RUN_MARKER = "SERVE_APP_RUN_DIR"
"""Set in every process that `serve-app up` starts, so that `down` finds the last one."""


HAPROXY_PROGRAM = "RAY_SERVE_HAPROXY_BINARY_PATH"
PYTHON = "SERVE_APP_PYTHON"
PATHS = frozenset((HAPROXY_PROGRAM, PYTHON))
"""The variables whose values are another on each machine."""
PACKAGE = Path(__file__).parents[1]
DEPLOYED = Path("/opt/serve-app")
"""Where the project is on the machines and in the images of `cluster/`."""


def ray_environment(
    *, haproxy: bool = True, python: Path = Path(sys.executable), package: Path = PACKAGE
) -> dict[str, str]:
    """What must be set before `ray start` or `serve run`, on every node.

    HAProxy and the throughput options double what Serve can pass on (docs/bench-log.md). The
    subreaper makes the raylet kill the engine's processes when their replica dies; they would hold
    their GPU otherwise. Whenever Routers come or go HAProxy is replaced; the old one may go on with
    its calls for an hour, the default of `deadlines.total_s`, and not for two minutes. A
    client that neither sends nor reads for five minutes is given up; one that waits for its answer
    is not. A proxy has half a minute to start instead of five seconds: on a busy node Serve would
    kill it, and `serve run` end with it. Ray starts a program of this package as HAProxy, which
    amends Ray's configuration (`config/haproxy.py`), and the callback puts this service's edge
    before Serve's HTTP layers.
    Usage statistics are off: the data may not leave the house. Serve packs replicas, the largest
    first, onto nodes that are in use already: spread over all nodes, small replicas would leave no
    node with enough free GPUs for a large one. FlashInfer's sampler and DeepGEMM are off: vLLM
    takes them by the card alone, and they would compile CUDA on nodes that have no compiler for it
    (docs/decisions/0011).
    """
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1" if haproxy else "0",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_kill_child_processes_on_worker_exit_with_raylet_subreaper": "true",
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "3600",
        "RAY_SERVE_HAPROXY_MAXCONN": "20000",
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "300",
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",
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
    """The same for the machines and containers of `cluster/`, where Prometheus is elsewhere."""
    python, package = DEPLOYED / ".venv/bin/python", DEPLOYED / "serve_app"
    return {**ray_environment(python=python, package=package), METRICS_HOST: "0.0.0.0"}


def socket_dir(run_dir: Path) -> Path:
    """A directory for sockets that vLLM does not remove. A socket's path has at most 107 bytes."""
    digest = hashlib.sha256(str(run_dir).encode()).hexdigest()[:10]
    return Path(tempfile.gettempdir()) / f"serve-app-{digest}"


def local_environment(run_dir: Path) -> dict[str, str]:
    """What one machine needs on top: a place for the sockets of HAProxy and vLLM, which leaves
    them behind when an engine is killed, and a quick shutdown.

    The drain period gives load balancers on other nodes time to notice; here there are none. The
    controller looks around twice a second instead of ten times: it shares the models' cores.
    """
    sockets = socket_dir(run_dir)
    return {
        RUN_MARKER: str(run_dir),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(sockets / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(sockets / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(sockets / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(sockets),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(sockets / "server-state"),
        "VLLM_RPC_BASE_PATH": str(sockets),
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
        "OMP_NUM_THREADS": "1",
    }
