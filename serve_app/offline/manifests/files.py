"""Which generated file follows from which config."""

from __future__ import annotations

from pathlib import Path

from serve_app.config.load import load_serve_config
from serve_app.offline.manifests.render import (
    render_drain,
    render_environment,
    render_models,
    render_patch,
    render_serve_file,
)

DEV = "configs/local.yaml"
PROD = "configs/prod.yaml"


def render_manifests(root: Path) -> dict[Path, str]:
    """The text of every generated file below `cluster/`, by its path from the project's root.

    Raises:
        ConfigError: a config cannot be used.
    """
    dev, prod = load_serve_config(root / DEV), load_serve_config(root / PROD)
    environment = render_environment()
    return {
        Path("cluster/docker/ray.env"): environment,
        Path("cluster/docker/serve.yaml"): render_serve_file(dev, DEV),
        Path("cluster/kuberay/base/ray.env"): environment,
        Path("cluster/kuberay/models/models.txt"): render_models(prod.app, PROD),
        Path("cluster/kuberay/overlays/dev/generated.yaml"): render_patch(dev, DEV),
        Path("cluster/kuberay/overlays/prod/generated.yaml"): render_patch(prod, PROD),
        Path("cluster/systemd/ray.env"): environment,
        Path("cluster/systemd/ray-worker.service.d/drain.conf"): render_drain(prod.app, PROD),
    }


def find_drift(root: Path) -> list[Path]:
    """The generated files that are missing or are not what the configs say."""
    return [path for path, text in render_manifests(root).items() if _read(root / path) != text]


def write_manifests(root: Path) -> list[Path]:
    """Write the files that are missing or out of date, and say which."""
    changed = find_drift(root)
    manifests = render_manifests(root)
    for path in changed:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(manifests[path], encoding="utf-8")
    return changed


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
