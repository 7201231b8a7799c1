"""The `import_path` of the tests: the application with simulated engines in every tier."""

# No `from __future__ import annotations` here, as in serve_app/app.py.
# ruff: noqa: E402  # vLLM's stand-in comes before what imports vLLM.
from tests.serve.simulated.stand_in import stand_in

stand_in()

from ray.serve import Application

from serve_app.app import compose
from serve_app.config.app import AppConfig
from serve_app.config.engine_arguments import check_engine_arguments
from serve_app.deploy.build import build_tier
from tests.serve.simulated.engine import choose_simulated


def build(config: AppConfig) -> Application:
    """As `serve_app.app.build`."""
    return compose(
        config,
        {
            tier.name: build_tier(tier, choose_simulated, check_engine_arguments)
            for tier in config.tiers
        },
    )
