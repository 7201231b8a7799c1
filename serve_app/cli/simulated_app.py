"""The `import_path` of `serve-app bench replicas`: the application with simulated tiers."""

# No `from __future__ import annotations` here, as in serve_app/app.py.
from ray.serve import Application

from serve_app.app import compose
from serve_app.config.app import AppConfig
from serve_app.offline.bench.simulated import build_simulated


def build(config: AppConfig) -> Application:
    """Build the application, like `serve_app.app.build`."""
    return compose(config, {tier.name: build_simulated(tier) for tier in config.tiers})
