"""The files of a generated overlay that its owner goes on to change; pure."""

from __future__ import annotations

import os
from pathlib import Path

from serve_app.config.app import AppConfig
from serve_app.deploy.pools import fits_on_head

OWN = "# Written once by `serve-app manifests`; from now on yours to change.\n"
IMAGES = """images:
  - name: serve-app
    newName: registry.example.org/serve-app  # yours
    newTag: 0.1.0-{kind}
"""
WORKERS = """  - poddisruptionbudgets.yaml
components:
  - {base}/components/workers
  # - {base}/components/redis                # the head may restart without the service
  # - {base}/components/incremental-upgrade  # upgrades without twice the GPUs
"""


def render_kustomization(app: AppConfig, base: Path, folder: Path) -> str:
    """A kustomization of the files in `folder`, on the project's `cluster/kuberay` in `base`."""
    way = Path(os.path.relpath(base, folder)).as_posix()
    gpu = any(tier.accelerator == "gpu" for tier in app.deployed)
    pools = not fits_on_head(app)
    return (
        OWN
        + "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n"
        + f"namespace: serve-app\nresources:\n  - namespace.yaml\n  - {way}/base\n"
        + (WORKERS.format(base=way) if pools else "")
        + IMAGES.format(kind="gpu" if gpu else "cpu")
        + "patches:\n"
        + ("  - path: workers.yaml\n" if pools else "")
        + "  - path: generated.yaml\n    target: {kind: RayService, name: serve-app}\n"
    )


def render_models_kustomization(base: Path, folder: Path) -> str:
    """The project's volume and Job for other models."""
    way = Path(os.path.relpath(base, folder)).as_posix()
    return (
        OWN
        + "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n"
        + f"namespace: serve-app\nresources:\n  - {way}/models\n"
        + "configMapGenerator:\n  - name: models-list\n    behavior: replace\n"
        + "    files: [models.txt]\n    options: {disableNameSuffixHash: true}\n"
    )
