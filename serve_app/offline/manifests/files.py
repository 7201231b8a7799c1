"""The generated files, and the config that each is generated from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from serve_app.config.app import AppConfig
from serve_app.config.reader import ConfigError, ServeConfig, read_serve_config
from serve_app.config.scaled import read_scaled
from serve_app.deploy.pools import Unplaceable, fits_on_head, plan_machines
from serve_app.offline.manifests.helm import render_values
from serve_app.offline.manifests.overlay import render_kustomization, render_models_kustomization
from serve_app.offline.manifests.render import (
    NAMESPACE,
    render_budgets,
    render_drain,
    render_environment,
    render_models,
    render_node,
    render_patch,
    render_serve_file,
    render_workers,
)

POD = Path("cluster/kuberay/components/workers/pod.yaml")
OVERLAYS = Path("cluster/kuberay/overlays")
HELM = Path("cluster/helm/values")
SYSTEMD = Path("cluster/systemd")
DEV = "configs/local.yaml"
PROD = "configs/prod.yaml"
PROD_HA = "configs/prod-ha.yaml"

Files = dict[Path, str]


@dataclass(frozen=True)
class Source:
    """A config from which files are generated, and its name in them."""

    config: ServeConfig
    name: str

    @classmethod
    def read(cls, path: Path, name: str) -> Source:
        """Read the config; raises ConfigError if it cannot be used."""
        return cls(read_serve_config(path), name)

    @property
    def app(self) -> AppConfig:
        """The topology, with the numbers of replicas that Serve uses."""
        return read_scaled(self.config)


def render_manifests(root: Path) -> Files:
    """The text of every generated file below `cluster/`, by its path from the project's root.

    Raises:
        ConfigError: a config cannot be used.
    """
    dev, prod, ha = (Source.read(root / name, name) for name in (DEV, PROD, PROD_HA))
    environment = render_environment()
    overlays = {OVERLAYS / "dev": dev, OVERLAYS / "prod": prod, OVERLAYS / "prod-ha": ha}
    return {
        Path("cluster/docker/ray.env"): environment,
        Path("cluster/docker/serve.yaml"): render_serve_file(dev.config, DEV),
        Path("cluster/kuberay/base/ray.env"): environment,
        Path("cluster/kuberay/models/models.txt"): render_models(prod.app, PROD),
        **{
            folder / name: text
            for folder, source in overlays.items()
            for name, text in _render_overlay(source, root).items()
        },
        **{
            HELM / f"{folder.name}.yaml": _render_values(source, root)
            for folder, source in overlays.items()
        },
        SYSTEMD / "ray.env": environment,
        **{SYSTEMD / name: text for name, text in _render_units(prod).items()},
    }


def _render_overlay(source: Source, root: Path) -> Files:
    """The files of a Kustomize overlay for a config."""
    app = source.app
    try:
        files = {Path("generated.yaml"): render_patch(source.config, source.name)}
        if not fits_on_head(app):
            files[Path("workers.yaml")] = render_workers(app, _read_pod(root), source.name)
            files[Path("poddisruptionbudgets.yaml")] = render_budgets(app, source.name)
    except Unplaceable as error:
        raise ConfigError(str(error)) from None
    return files


def _render_values(source: Source, root: Path) -> str:
    """The files of the Helm chart for a config."""
    try:
        return render_values(source.config, _read_pod(root), source.name)
    except Unplaceable as error:
        raise ConfigError(str(error)) from None


def _render_units(source: Source) -> Files:
    """The files of systemd's units for a config."""
    app = source.app
    try:
        pools = plan_machines(app)
    except Unplaceable as error:
        raise ConfigError(str(error)) from None
    nodes = {Path("nodes") / f"{one.name}.env": render_node(one, source.name) for one in pools}
    drain = Path("ray-worker.service.d/drain.conf")
    return {drain: render_drain(app, source.name), **nodes}


def _read_pod(root: Path) -> dict[str, Any]:
    try:
        pod: dict[str, Any] = yaml.safe_load((root / POD).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{POD}: {error.strerror}; give the project's root with --root") from None
    return pod


# --- a folder for any config ---


def render_folder(config: Path, root: Path, out: Path) -> tuple[Files, Files]:
    """Manifests for any config, by their path in the folder: generated files, and files written
    once.

    Raises:
        ConfigError: the config cannot be used.
    """
    source = Source.read(config, config.name)
    app = source.app
    kuberay, systemd, models = Path("kuberay"), Path("systemd"), Path("models")
    overlay = _render_overlay(source, root)
    fetched = render_models(app, source.name)
    anew = {
        **{kuberay / name: text for name, text in overlay.items()},
        **{systemd / name: text for name, text in _render_units(source).items()},
        systemd / "serve.yaml": render_serve_file(source.config, source.name),
        models / "models.txt": fetched,
        Path("helm/values.yaml"): _render_values(source, root),
    }
    base = (root / "cluster/kuberay").resolve()
    once = {
        kuberay / "kustomization.yaml": render_kustomization(app, base, (out / kuberay).resolve()),
        kuberay / "namespace.yaml": NAMESPACE,
        models / "kustomization.yaml": render_models_kustomization(base, (out / models).resolve()),
    }
    return anew, once


def write_folder(config: Path, root: Path, out: Path) -> list[Path]:
    """Write these files, except existing files of the user; return the changed files."""
    anew, once = render_folder(config, root, out)
    missing = {path: text for path, text in once.items() if not (out / path).exists()}
    return _write({**anew, **missing}, out)


# --- on disk ---


def find_drift(root: Path) -> list[Path]:
    """The generated files that are missing or differ from the configs."""
    return _find_changed(render_manifests(root), root)


def write_manifests(root: Path) -> list[Path]:
    """Write the files that are missing or out of date, and return them."""
    return _write(render_manifests(root), root)


def _find_changed(files: Files, root: Path) -> list[Path]:
    return [path for path, text in files.items() if _read(root / path) != text]


def _write(files: Files, root: Path) -> list[Path]:
    changed = _find_changed(files, root)
    for path in changed:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(files[path], encoding="utf-8")
    return changed


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
