"""The text of each generated file; pure."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Set
from typing import Any

import yaml

from serve_app.config.app import AppConfig
from serve_app.config.environment import deployed_environment
from serve_app.config.reader import ServeConfig
from serve_app.config.scaled import read_scaled
from serve_app.config.serve_file import ROUTER_NAME
from serve_app.deploy.fit import parse_selector
from serve_app.deploy.pools import POD_MEMORY_GIB, NodePool, fits_on_head, plan_pods
from serve_app.offline.manifests.deployed import deploy_document, is_fetched, is_mounted, model_dir
from serve_app.offline.manifests.pools import drain_s, head_cpus, move_s, stop_s

HEADER = "# Written by `serve-app manifests` from {source}; a test keeps it true.\n"
CLUSTER = "/spec/rayClusterConfig"
HEAD = f"{CLUSTER}/headGroupSpec/template/spec/containers/0"
Object = dict[str, Any]

GPU_LABEL = "serve-app/gpu"
"""The label of Kubernetes' nodes that names their GPUs, by Ray's name of them."""
KUBERNETES_LABELS = {
    "ray.io/availability-zone": "topology.kubernetes.io/zone",
    "ray.io/region": "topology.kubernetes.io/region",
    "ray.io/accelerator-type": GPU_LABEL,
}
"""Kubernetes' names of the labels that Ray's nodes have by themselves."""
NAMESPACE = """apiVersion: v1
kind: Namespace
metadata:
  name: serve-app
  labels:
    pod-security.kubernetes.io/enforce: restricted
"""
POD_CPUS = 1
"""CPUs of a pod in addition to Ray's: for the raylet, HAProxy and the agents."""
MODEL_PARTS = frozenset({"models", "models-list", "models-are-there"})
CACHE_PARTS = frozenset({"compile-cache"})
"""The volumes of a pod for its models and for the code that its GPU engines compile, by name."""
SECRET_PARTS = frozenset({"secrets"})
"""The volume of a pool for the secrets of its Routers."""
SHM_PART = 4
"""A pod's shared memory is this fraction of its memory."""


class _Dumper(yaml.SafeDumper):
    """Readable YAML: no aliases, and text of several lines as a block."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def dump(value: object) -> str:
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=120)


def render_environment() -> str:
    """The environment of every Ray process, for `env_file`, `EnvironmentFile` and ConfigMaps."""
    lines = (f"{name}={value}\n" for name, value in deployed_environment().items())
    return HEADER.format(source="serve_app/config/environment.py") + "".join(lines)


def render_serve_file(config: ServeConfig, source: str) -> str:
    """The config for machines or a container that are reached from outside."""
    return HEADER.format(source=source) + dump(deploy_document(config))


def render_models(app: AppConfig, source: str) -> str:
    """The list of the model cache: `HUB_ID DIRECTORY`, one model per line."""
    lines = (f"{tier.source} {model_dir(tier)}\n" for tier in app.deployed if is_fetched(tier))
    return HEADER.format(source=source) + "".join(lines)


def render_drain(app: AppConfig, source: str) -> str:
    """A systemd drop-in for workers: how long a node that stops may let streams finish."""
    lines = f"[Service]\nEnvironment=DRAIN_S={move_s(app)}\nTimeoutStopSec={stop_s(app)}\n"
    return HEADER.format(source=source) + lines


def render_node(pool: NodePool, source: str) -> str:
    """The part of a machine's `node.env` that follows from the config: the machine's labels and
    resources."""
    labels = ",".join(f"{key}={value}" for key, value in pool.labels.items())
    # systemd takes text in single quotes literally.
    return (
        HEADER.format(source=source)
        + f"# {', '.join(pool.deployments)}: {pool.nodes_min} to {pool.nodes_max} machines with at "
        f"least {pool.cpus} CPUs{f' and {pool.gpus} GPUs' if pool.gpus else ''}\n"
        f"NODE_LABELS={labels}\n"
        f"NODE_RESOURCES='{json.dumps(dict(pool.custom))}'\n"
    )


# --- Kubernetes ---


def render_patch(config: ServeConfig, source: str) -> str:
    """A JSON patch of the RayService: all in it that follows from the config, but the workers."""
    app = read_scaled(config)
    operations = [
        _add("/spec/serveConfigV2", dump(deploy_document(config, plan_pods(app)))),
        # The old cluster of an upgrade stays until its last stream has ended.
        _add("/spec/rayClusterDeletionDelaySeconds", drain_s(app)),
        _add(f"{CLUSTER}/headGroupSpec/resources", {"CPU": str(head_cpus(app))}),
    ]
    if fits_on_head(app):
        operations.append(_add(f"{HEAD}/resources", head_resources(app)))
    return HEADER.format(source=source) + dump(operations)


def head_resources(app: AppConfig) -> Object:
    engines = sum(tier.replicas.max * tier.data_parallel_size for tier in app.deployed)
    memory = f"{POD_MEMORY_GIB * (1 + engines)}Gi"
    return {
        "requests": {
            "cpu": str(head_cpus(app) + POD_CPUS),
            "memory": memory,
            "ephemeral-storage": "10Gi",
        },
        "limits": {"memory": memory, "ephemeral-storage": "20Gi"},
    }


def render_workers(app: AppConfig, pod: Object, source: str) -> str:
    """The pools of workers, as a part of the RayService; `pod` is what all their pods share."""
    groups = [build_group(pool, pod, app) for pool in plan_pods(app)]
    service = {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": {"name": "serve-app"},
        "spec": {"rayClusterConfig": {"workerGroupSpecs": groups}},
    }
    return HEADER.format(source=source) + dump(service)


def build_group(pool: NodePool, pod: Object, app: AppConfig) -> Object:
    return {
        "groupName": pool.name,
        "minReplicas": pool.nodes_min,
        "maxReplicas": pool.nodes_max,
        "labels": dict(pool.labels),
        "resources": {name: str(amount) for name, amount in pool.resources.items()},
        "rayStartParams": {"metrics-export-port": "8080"},
        "template": _build_pod(pool, pod, app),
    }


def _build_pod(pool: NodePool, pod: Object, app: AppConfig) -> Object:
    made = copy.deepcopy(pod)
    spec = made["spec"]
    if not any(is_mounted(tier) for tier in app.deployed if tier.name in pool.deployments):
        _leave_out(spec, MODEL_PARTS)
    if not pool.gpus:
        _leave_out(spec, CACHE_PARTS)
    if ROUTER_NAME not in pool.deployments:
        _leave_out(spec, SECRET_PARTS)
    (container,) = spec["containers"]
    _add_resources(container["resources"], pool)
    (shm,) = [volume for volume in spec["volumes"] if volume["name"] == "shm"]
    shm["emptyDir"]["sizeLimit"] = f"{pool.memory_gib // SHM_PART}Gi"
    drain = ["serve-app", "drain-node", "--wait-s", str(move_s(app))]
    container["lifecycle"] = {"preStop": {"exec": {"command": drain}}}
    spec["terminationGracePeriodSeconds"] = stop_s(app)
    spec.update(_choose_machines(pool))
    spec["topologySpreadConstraints"] = _spread(pool)
    return made


def _add_resources(resources: Object, pool: NodePool) -> None:
    memory = {"memory": f"{pool.memory_gib}Gi"}
    gpus = {"nvidia.com/gpu": pool.gpus} if pool.gpus else {}
    cpu = {"cpu": str(pool.cpus + POD_CPUS)}
    resources["requests"] = {**cpu, **memory, **resources["requests"], **gpus}
    resources["limits"] = {**memory, **resources["limits"], **gpus}


def _leave_out(spec: Object, parts: Set[str]) -> None:
    """Take volumes, their mounts and init containers of these names out of a pod."""

    def keep(items: Iterable[Object]) -> list[Object]:
        return [item for item in items if item["name"] not in parts]

    spec["volumes"] = keep(spec["volumes"])
    preparing = keep(spec.pop("initContainers", ()))
    if preparing:
        spec["initContainers"] = preparing
    for container in (*preparing, *spec["containers"]):
        container["volumeMounts"] = keep(container["volumeMounts"])


def _choose_machines(pool: NodePool) -> Object:
    """The kind of GPU by a label of our own, and what a tier says of nodes as it says it."""
    chosen: Object = {}
    if pool.accelerator_type:
        chosen["nodeSelector"] = {GPU_LABEL: pool.accelerator_type}
    if pool.machines:
        rules = [_match(key, selector) for key, selector in pool.machines.items()]
        terms = {"nodeSelectorTerms": [{"matchExpressions": rules}]}
        wanted = {"requiredDuringSchedulingIgnoredDuringExecution": terms}
        chosen["affinity"] = {"nodeAffinity": wanted}
    return chosen


def _match(key: str, selector: str) -> Object:
    values, without = parse_selector(selector)
    operator = "NotIn" if without else "In"
    return {"key": KUBERNETES_LABELS.get(key, key), "operator": operator, "values": values}


def _spread(pool: NodePool) -> list[Object]:
    """Over machines, one cluster of an upgrade apart from the other.

    Where the config bounds how many a node holds, pods wait rather than come together. Others come
    together where they have to: a machine that is full must not keep a tier from growing.
    """
    common = {
        "topologyKey": "kubernetes.io/hostname",
        "nodeTaintsPolicy": "Honor",
        "labelSelector": {"matchLabels": {"ray.io/group": pool.name}},
        "matchLabelKeys": ["ray.io/cluster"],
    }
    evenly = {"maxSkew": 1, "whenUnsatisfiable": "ScheduleAnyway", **common}
    if pool.apart is None:
        return [evenly]
    return [{"maxSkew": pool.apart, "whenUnsatisfiable": "DoNotSchedule", **common}, evenly]


def render_budgets(app: AppConfig, source: str) -> str:
    """A budget for each pool: as many pods as the least replicas need are not drained away."""
    budgets = [_build_budget(pool) for pool in plan_pods(app) if pool.nodes_min]
    return HEADER.format(source=source) + yaml.dump_all(budgets, Dumper=_Dumper, sort_keys=False)


def _build_budget(pool: NodePool) -> Object:
    part_of = {"app.kubernetes.io/part-of": "serve-app"}
    selector = {"matchLabels": {**part_of, "ray.io/group": pool.name}}
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": f"ray-{pool.name}", "labels": part_of},
        "spec": {"minAvailable": pool.nodes_min, "selector": selector},
    }


def render_sizes(index: int, pool: NodePool) -> list[Object]:
    """A JSON patch of a RayCluster that runs: how many pods one of its groups has."""
    path = f"/spec/workerGroupSpecs/{index}"
    return [
        {"op": "test", "path": f"{path}/groupName", "value": pool.name},
        {"op": "replace", "path": f"{path}/minReplicas", "value": pool.nodes_min},
        {"op": "replace", "path": f"{path}/maxReplicas", "value": pool.nodes_max},
    ]


def _add(path: str, value: object) -> Object:
    """An `add` on an existing key replaces it."""
    return {"op": "add", "path": path, "value": value}
