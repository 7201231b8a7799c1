"""The values of the Helm chart that follow from a config; pure."""

from __future__ import annotations

from typing import Any

from serve_app.config.environment import deployed_environment
from serve_app.config.reader import ServeConfig
from serve_app.config.scaled import read_scaled
from serve_app.deploy.pools import fits_on_head, plan_pods
from serve_app.offline.manifests.deployed import deploy_document
from serve_app.offline.manifests.pools import drain_s, head_cpus, move_s, stop_s
from serve_app.offline.manifests.render import HEADER, build_group, dump, head_resources

Object = dict[str, Any]

OF_MACHINES = ("nodeSelector", "affinity", "topologySpreadConstraints")
"""What of a pool's pods says where they may be."""


def render_values(config: ServeConfig, pod: Object, source: str) -> str:
    """Values for `cluster/helm/serve-app`: the config itself, and the pods that it needs."""
    app = read_scaled(config)
    pools = plan_pods(app)
    head: Object = {"rayResources": {"CPU": str(head_cpus(app))}}
    if fits_on_head(app):
        head["resources"] = head_resources(app)
    values = {
        "serveConfigV2": dump(deploy_document(config, pools)),
        "clusterDeletionDelaySeconds": drain_s(app),
        "environment": dict(deployed_environment()),
        "head": head,
        "drain": {"waitSeconds": move_s(app), "graceSeconds": stop_s(app)},
        "pools": [_build_pool(build_group(pool, pod, app)) for pool in pools],
    }
    return HEADER.format(source=source) + dump(values)


def _build_pool(group: Object) -> Object:
    """A pool for the chart's own pod, of the worker group that Kustomize would get."""
    spec = group["template"]["spec"]
    (container,) = spec["containers"]
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    return {
        "name": group["groupName"],
        "minReplicas": group["minReplicas"],
        "maxReplicas": group["maxReplicas"],
        "labels": group["labels"],
        "rayResources": group["resources"],
        "resources": container["resources"],
        "sharedMemory": volumes["shm"]["emptyDir"]["sizeLimit"],
        "models": "models" in volumes,
        "compileCache": "compile-cache" in volumes,
        "secrets": "secrets" in volumes,
        **{key: spec[key] for key in OF_MACHINES if key in spec},
    }
