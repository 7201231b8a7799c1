"""One real service for each module that asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serve.service import ROOT, Service, running_service


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The embedded default, exactly as `make serve` runs it."""
    with running_service(ROOT / "configs" / "local.yaml", run_dir(tmp_path_factory)) as service:
        yield service


def run_dir(factory: pytest.TempPathFactory) -> Path:
    """A directory of its own for the files and the process marker of one service."""
    return factory.mktemp("run", numbered=True) / "service"
