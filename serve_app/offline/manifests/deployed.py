"""A config as it is deployed elsewhere: the few values that belong to the place, not to it."""

from __future__ import annotations

import json
from typing import Any

from serve_app.config.load import IMPORT_PATH, ServeConfig
from serve_app.config.tiers import DEMO_PREFIX, TierConfig
from serve_app.offline.manifests.pools import POOL_LABEL

MODELS_DIR = "/models"
"""Where every node finds the weights."""


def deploy_document(config: ServeConfig, *, pools: bool) -> dict[str, Any]:
    """The Serve config file for machines other than this one.

    The public port is open on all interfaces: a container's own loopback reaches nobody. Models
    that the engine would fetch from a hub come from directories below `MODELS_DIR`, for no node has
    a way out. With `pools`, a GPU tier without node labels keeps to the nodes of its own pool.
    """
    # By way of JSON: what was one YAML anchor must not be one object any more.
    document: dict[str, Any] = json.loads(json.dumps(config.document))
    document.setdefault("http_options", {})["host"] = "0.0.0.0"
    tiers = {tier.name: tier for tier in config.app.tiers}
    for application in document["applications"]:
        if application["import_path"] == IMPORT_PATH:
            for written in application["args"]["tiers"]:
                _deploy_tier(written, tiers[written["name"]], pools=pools)
    return document


def _deploy_tier(written: dict[str, Any], tier: TierConfig, *, pools: bool) -> None:
    if is_fetched(tier):
        written["model_source"] = model_dir(tier)
        written["env"] = {"HF_HUB_OFFLINE": "1", **written.get("env", {})}
    if pools and tier.accelerator == "gpu" and not tier.placement.node_labels:
        written.setdefault("placement", {})["node_labels"] = {POOL_LABEL: tier.name}


def is_fetched(tier: TierConfig) -> bool:
    """Whether the engine would fetch the model from a hub by itself."""
    return not tier.source.startswith(("/", DEMO_PREFIX)) and "://" not in tier.source


def model_dir(tier: TierConfig) -> str:
    """Where a model from a hub is put: its name without the organisation."""
    return f"{MODELS_DIR}/{tier.source.rpartition('/')[2]}"
