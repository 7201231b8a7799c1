"""What Prometheus is given, by name and labels: read from our source and the installed packages."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[2]

OF_RAY_SERVE = frozenset({"application", "deployment", "replica"})
"""Labels that `ray.serve.metrics` adds within a replica."""
NONE: frozenset[str] = frozenset()
OF_VLLM = frozenset({"model_name", "engine", "ReplicaId"})
"""Labels that vLLM's wrappers of Ray's metrics have; `ReplicaId` is Serve's `replica`."""

SUFFIXES = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}

_DCGM_LABELS = frozenset({"gpu", "UUID", "pci_bus_id", "device", "modelName", "hostname"})
DCGM = dict.fromkeys(
    [
        "DCGM_FI_DEV_FB_FREE",
        "DCGM_FI_DEV_FB_USED",
        "DCGM_FI_DEV_GPU_TEMP",
        "DCGM_FI_DEV_GPU_UTIL",
        "DCGM_FI_DEV_POWER_USAGE",
        "DCGM_FI_DEV_XID_ERRORS",
        "DCGM_FI_PROF_DRAM_ACTIVE",
        "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE",
    ],
    _DCGM_LABELS,
)
"""Those of NVIDIA's exporter that we ask for. All are on by default, with the GPU operator too:
etc/default-counters.csv, etc/dcp-metrics-included.csv and internal/pkg/rendermetrics of
NVIDIA/dcgm-exporter 4.5.3-4.8.2, looked up in November 2026."""


_OF_A_NODE = frozenset({"ip", "Version", "SessionName", "IsHeadNode", "RayNodeType"})
OF_NODES = {
    "ray_node_disk_utilization_percentage": _OF_A_NODE,
    "ray_memory_manager_worker_eviction_total": frozenset({"Type", "Name"}),
}
"""Those of Ray's nodes that we ask for, by Ray 2.60: the disk of dashboard/modules/reporter, with
the labels of dashboard/consts.py; the other of the raylet (C++), as Ray's dashboards ask for it."""


def _installed(package: str) -> Path:
    """Where a package lies, without the ten seconds that importing vLLM takes."""
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


@dataclass(frozen=True)
class Metric:
    """A metric as its source declares it."""

    kind: str
    name: str
    labels: frozenset[str]
    is_conditional: bool

    def series(self) -> dict[str, frozenset[str]]:
        """Ray's names of it for Prometheus, with their labels."""
        is_suffixed = self.kind == "counter" and self.name.endswith("_total")
        ends = [""] if is_suffixed else SUFFIXES[self.kind]
        bucket = {"le"} if self.kind == "histogram" else set()
        return {
            f"ray_{self.name.replace(':', '_')}{end}": self.labels
            | (bucket if end == "_bucket" else set())
            for end in ends
        }


def find_metrics(source: str) -> Iterator[Metric]:
    """Every metric that a module declares with its name in the call."""
    tree = ast.parse(source)
    variables = _find_variables(tree)
    yield from _walk(tree, variables, is_conditional=False)


def _walk(
    node: ast.AST, variables: dict[str, ast.expr], *, is_conditional: bool
) -> Iterator[Metric]:
    if isinstance(node, ast.Call):
        name = _find_name(node)
        kind = _find_kind(node.func)
        if kind in SUFFIXES and name is not None:
            yield Metric(kind, name, frozenset(_find_labels(node, variables)), is_conditional)
    inner = is_conditional or isinstance(node, ast.If)
    for child in ast.iter_child_nodes(node):
        yield from _walk(child, variables, is_conditional=inner)


def _find_kind(function: ast.expr) -> str:
    """`Gauge(...)`, `metrics.Gauge(...)` and `self._gauge_cls(...)` are all of the kind `gauge`."""
    called = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return called.removeprefix("_").removesuffix("_cls").lower()


def _find_name(call: ast.Call) -> str | None:
    named = [word.value for word in call.keywords if word.arg == "name"] or call.args[:1]
    value = getattr(named[0], "value", None) if named else None
    return value if isinstance(value, str) else None


def _find_labels(call: ast.Call, variables: dict[str, ast.expr]) -> set[str]:
    """The strings of the tuple or list of labels, through variables, sums and conditions."""
    given = [word.value for word in call.keywords if word.arg in ("tag_keys", "labelnames")]
    given = given or [arg for arg in call.args[1:] if isinstance(arg, ast.Tuple)]
    return set().union(*(_find_strings(value, variables) for value in given))


def _find_strings(value: ast.expr, variables: dict[str, ast.expr]) -> set[str]:
    if isinstance(value, ast.Constant):
        return {str(value.value)}
    if isinstance(value, ast.Name):
        return _find_strings(variables[value.id], variables) if value.id in variables else set()
    if isinstance(value, ast.IfExp):
        return _find_strings(value.body, variables)
    inner = [child for child in ast.iter_child_nodes(value) if isinstance(child, ast.expr)]
    return set().union(*(_find_strings(child, variables) for child in inner))


def _find_variables(tree: ast.Module) -> dict[str, ast.expr]:
    return {
        target.id: node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


@cache
def find_ours() -> dict[str, frozenset[str]]:
    """The metrics of Routers and of replicas."""
    found = [
        metric
        for path in sorted((ROOT / "serve_app").glob("*/*.py"))
        if path.parent.name in ("observe", "replica")
        for metric in find_metrics(path.read_text())
    ]
    return _series(found, OF_RAY_SERVE)


@cache
def find_of_vllm() -> dict[str, frozenset[str]]:
    """What every engine exports, whatever its arguments."""
    source = (_installed("vllm") / "v1/metrics/loggers.py").read_text()
    always = [metric for metric in find_metrics(source) if not metric.is_conditional]
    return _series(always, OF_VLLM)


@cache
def find_of_ray_serve() -> dict[str, frozenset[str]]:
    """What Serve's controller and replicas export."""
    found: dict[str, frozenset[str]] = {}
    for path in (_installed("ray") / "serve/_private").glob("*.py"):
        added = OF_RAY_SERVE if path.name == "replica.py" else NONE
        found |= _series(find_metrics(path.read_text()), added)
    return found


def find_all() -> dict[str, frozenset[str]]:
    """Everything that the scraped ports may show."""
    return find_of_ray_serve() | find_of_vllm() | find_ours() | DCGM | OF_NODES


def _series(metrics: Iterable[Metric], added: frozenset[str]) -> dict[str, frozenset[str]]:
    return {name: labels | added for m in metrics for name, labels in m.series().items()}
