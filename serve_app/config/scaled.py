"""The numbers of replicas that Serve uses: numbers under `deployments` override `args`."""

from __future__ import annotations

from typing import Any

from serve_app.config.app import AppConfig
from serve_app.config.reader import IMPORT_PATH, ServeConfig
from serve_app.config.serve_file import ROUTER_NAME, ServeFile
from serve_app.config.tiers import DEPLOYMENT_PREFIX

Numbers = dict[str, int]


def read_scaled(config: ServeConfig) -> AppConfig:
    """The topology with the numbers of replicas that are written under `deployments`."""
    app, numbers = config.app, _read_numbers(config)
    tiers = tuple(
        tier.model_copy(
            update={"replicas": _scale(tier.replicas, numbers.get(DEPLOYMENT_PREFIX + tier.name))}
        )
        for tier in app.tiers
    )
    replicas = _scale(app.router.replicas, numbers.get(ROUTER_NAME))
    router = app.router.model_copy(update={"replicas": replicas})
    return app.model_copy(update={"tiers": tiers, "router": router})


def _scale(replicas: Any, numbers: Numbers | None) -> Any:
    return replicas.model_copy(update=numbers or {})


def _read_numbers(config: ServeConfig) -> dict[str, Numbers]:
    file = ServeFile.model_validate(config.document)
    ours = [one for one in file.applications if one.import_path == IMPORT_PATH]
    return {
        deployment.name: _parse_numbers(deployment.model_extra or {})
        for application in ours
        for deployment in application.deployments
    }


def _parse_numbers(keys: dict[str, Any]) -> Numbers:
    """The numbers of `autoscaling_config` (Serve's default: one replica) or of `num_replicas`."""
    scaling, fixed = keys.get("autoscaling_config"), keys.get("num_replicas")
    if isinstance(scaling, dict):
        found = {key: scaling.get(f"{key}_replicas", 1) for key in ("min", "max")}
        return {key: value for key, value in found.items() if isinstance(value, int)}
    return {"min": fixed, "max": fixed} if isinstance(fixed, int) else {}
