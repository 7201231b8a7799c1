"""Where Ray's dashboard is, and the token of this user's clusters: for commands only."""

from __future__ import annotations

from pathlib import Path

DASHBOARD = "http://127.0.0.1:8265"
"""Ray's default address of the dashboard."""
AUTH_TOKEN = Path.home() / ".ray" / "auth_token"
"""Ray's default path; to ask Ray for the token takes 2 s, in which the cluster can start."""
