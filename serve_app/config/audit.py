"""The config of `serve_app/audit`."""

from __future__ import annotations

from serve_app.config.base import Config


class AuditConfig(Config):
    """Placeholder of the seam."""
