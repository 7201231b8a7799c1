"""The config of `serve_app/access`."""

from __future__ import annotations

from serve_app.config.base import Config


class AccessConfig(Config):
    """Placeholder of the seam."""
