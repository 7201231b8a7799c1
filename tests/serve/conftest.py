"""What every module with a real service needs."""

from __future__ import annotations

from pathlib import Path

import pytest


def run_dir(factory: pytest.TempPathFactory) -> Path:
    """A directory of its own for the files and the process marker of one service."""
    return factory.mktemp("run", numbered=True) / "service"
