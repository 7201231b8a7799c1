"""A model directory to be damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.model_directory import write_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A directory in which nothing is wrong; without SHA256SUMS."""
    return write_model(tmp_path / "model")
