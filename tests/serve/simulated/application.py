"""The `import_path` of the tests: the application with simulated engines in every tier."""

# No `from __future__ import annotations` here, as in serve_app/app.py.
from ray.serve import Application

from serve_app.app import compose
from serve_app.config.app import AppConfig
from serve_app.deploy.build import build_tier
from tests.serve.simulated.engine import choose_simulated

IMPORT_PATH = f"{__name__}:build"


def build(config: AppConfig) -> Application:
    """As `serve_app.app.build`."""
    tiers = {tier.name: build_tier(tier, choose_simulated) for tier in config.tiers}
    return compose(config, tiers)
