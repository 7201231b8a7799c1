"""A config for deployment elsewhere: only the values that depend on the place differ."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from serve_app.config.app import AppConfig, RouterConfig
from serve_app.config.reader import IMPORT_PATH, ServeConfig
from serve_app.config.serve_file import ROUTER_NAME
from serve_app.config.tiers import DEMO_PREFIX, TierConfig
from serve_app.deploy.pools import NodePool

MODELS_DIR = "/models"
"""The directory of the weights on every node."""


def deploy_document(config: ServeConfig, pools: Sequence[NodePool] = ()) -> dict[str, Any]:
    """The Serve config file for machines other than this machine.

    The public port is open on all interfaces, because a container's own loopback is not reachable
    from outside. Models that the engine would download from a hub come from directories below
    `MODELS_DIR`, because no node has internet access. With `pools`, tiers and Routers keep to the
    nodes of their own pool, and Kubernetes gets the node labels of a tier instead of Ray
    (`NodePool.machines`).
    """
    # A copy through JSON, so that a YAML anchor and its aliases become separate objects.
    document: dict[str, Any] = json.loads(json.dumps(config.document))
    document.setdefault("http_options", {})["host"] = "0.0.0.0"
    labels = {name: dict(pool.labels) for pool in pools for name in pool.deployments}
    for application in document["applications"]:
        if application["import_path"] == IMPORT_PATH:
            _deploy_tiers(application, config.app, labels)
            if ROUTER_NAME in labels:
                _deploy_router(application, config.app.router, labels[ROUTER_NAME])
    return document


def _deploy_tiers(
    application: dict[str, Any], app: AppConfig, labels: Mapping[str, dict[str, str]]
) -> None:
    tiers = {tier.name: tier for tier in app.deployed}
    args = application["args"]
    for written in args["tiers"]:
        _deploy_tier(written, tiers[written["name"]], labels)
    for variant, written in zip(app.variants, args.get("variants", ()), strict=True):
        _deploy_tier(written, tiers[variant.deployed_name], labels)


def _deploy_tier(
    written: dict[str, Any], tier: TierConfig, labels: Mapping[str, dict[str, str]]
) -> None:
    if is_fetched(tier):
        written["model_source"] = model_dir(tier)
        env = written.get("env", dict(tier.env))
        written["env"] = {"HF_HUB_OFFLINE": "1", **env}
    if tier.name in labels:
        placement = written.get("placement", tier.placement.model_dump(exclude_unset=True))
        written["placement"] = {**placement, "node_labels": labels[tier.name]}


def _deploy_router(
    application: dict[str, Any], router: RouterConfig, labels: dict[str, str]
) -> None:
    """The deployments' options; Serve uses them in place of the application's, so they are
    complete."""
    deployments = application.setdefault("deployments", [])
    written = next((one for one in deployments if one["name"] == ROUTER_NAME), None)
    if written is None:
        written = {"name": ROUTER_NAME}
        deployments.append(written)
    own = {"num_cpus": router.cpus, "runtime_env": {"env_vars": dict(router.env)}}
    written["ray_actor_options"] = {
        **own,
        **written.get("ray_actor_options", {}),
        "label_selector": labels,
    }


def is_fetched(tier: TierConfig) -> bool:
    """Whether the engine would download the model from a hub itself."""
    return not tier.source.startswith(("/", DEMO_PREFIX)) and "://" not in tier.source


def is_mounted(tier: TierConfig) -> bool:
    """Whether the weights are in the volume of models, once the config is deployed."""
    return is_fetched(tier) or tier.source.startswith(f"{MODELS_DIR}/")


def model_dir(tier: TierConfig) -> str:
    """The directory of a model from a hub: the model's name without the organisation."""
    return f"{MODELS_DIR}/{tier.source.rpartition('/')[2]}"
