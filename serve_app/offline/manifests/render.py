"""The text of each generated file; pure."""

from __future__ import annotations

from typing import Any

import yaml

from serve_app.config.app import AppConfig
from serve_app.config.environment import deployed_environment
from serve_app.config.load import ServeConfig
from serve_app.offline.manifests.deployed import deploy_document, is_fetched, model_dir
from serve_app.offline.manifests.pools import (
    POOL_LABEL,
    NodePool,
    drain_s,
    head_cpus,
    move_s,
    plan_pools,
    stop_s,
)

HEADER = "# Written by `serve-app manifests` from {source}; a test keeps it true.\n"
CLUSTER = "/spec/rayClusterConfig"
Operation = dict[str, Any]


class _Dumper(yaml.SafeDumper):
    """YAML that people read: no aliases, and text of several lines as a block."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def _dump(value: object) -> str:
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=120)


def render_environment() -> str:
    """The environment of every Ray process, for `env_file`, `EnvironmentFile` and ConfigMaps."""
    lines = (f"{name}={value}\n" for name, value in deployed_environment().items())
    return HEADER.format(source="serve_app/config/environment.py") + "".join(lines)


def render_serve_file(config: ServeConfig, source: str) -> str:
    """The config for a container that is reached from outside."""
    return HEADER.format(source=source) + _dump(deploy_document(config, pools=False))


def render_models(app: AppConfig, source: str) -> str:
    """What the model cache holds: `HUB_ID DIRECTORY`, one model a line."""
    lines = (f"{tier.source} {model_dir(tier)}\n" for tier in app.tiers if is_fetched(tier))
    return HEADER.format(source=source) + "".join(lines)


def render_drain(app: AppConfig, source: str) -> str:
    """A systemd drop-in for workers: how long a node that stops may let streams finish."""
    lines = f"[Service]\nEnvironment=DRAIN_S={move_s(app)}\nTimeoutStopSec={stop_s(app)}\n"
    return HEADER.format(source=source) + lines


def render_patch(config: ServeConfig, source: str) -> str:
    """A JSON patch of the RayService: all in it that follows from the config."""
    app = config.app
    operations = [
        _add("/spec/serveConfigV2", _dump(deploy_document(config, pools=True))),
        # The old cluster of an upgrade stays until its last stream has ended.
        _add("/spec/rayClusterDeletionDelaySeconds", drain_s(app)),
        _add(f"{CLUSTER}/headGroupSpec/resources", {"CPU": str(head_cpus(app))}),
    ]
    for index, pool in enumerate(plan_pools(app)):
        operations += _patch_group(f"{CLUSTER}/workerGroupSpecs/{index}", pool, app)
    return HEADER.format(source=source) + _dump(operations)


def _patch_group(path: str, pool: NodePool, app: AppConfig) -> list[Operation]:
    container = f"{path}/template/spec/containers/0"
    drain = ["serve-app", "drain-node", "--wait-s", str(move_s(app))]
    return [
        {"op": "test", "path": f"{path}/groupName", "value": pool.name},
        _add(f"{path}/minReplicas", pool.nodes_min),
        _add(f"{path}/maxReplicas", pool.nodes_max),
        _add(f"{path}/labels", {POOL_LABEL: pool.name}),
        _add(f"{path}/resources", {name: str(n) for name, n in pool.resources.items()}),
        _add(f"{container}/resources/limits/nvidia.com~1gpu", pool.gpus),
        _add(f"{container}/resources/requests/nvidia.com~1gpu", pool.gpus),
        _add(f"{container}/lifecycle", {"preStop": {"exec": {"command": drain}}}),
        _add(f"{path}/template/spec/terminationGracePeriodSeconds", stop_s(app)),
    ]


def _add(path: str, value: object) -> Operation:
    """`add` on a key that is there replaces it."""
    return {"op": "add", "path": path, "value": value}
