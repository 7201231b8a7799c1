"""The embedded default, exactly as `make serve` runs it: one for all modules of this directory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.serve.conftest import run_dir
from tests.serve.service import ROOT, Service, running_service


@pytest.fixture(scope="package")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running_service(ROOT / "configs" / "local.yaml", run_dir(tmp_path_factory)) as service:
        yield service


@pytest.fixture(scope="module")
def local(started: Service) -> Service:
    """The running service, with the config that it was started with."""
    started.restore()
    return started
