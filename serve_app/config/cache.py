"""The config of `serve_app/cache`."""

from __future__ import annotations

from serve_app.config.base import Config


class CacheConfig(Config):
    """Placeholder of the seam."""
