"""One service for all faults of this directory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.trial import Subject
from tests.outcomes.load import running_load
from tests.serve.conftest import run_dir
from tests.serve.service import ROOT, Service, running_service


@pytest.fixture(scope="package")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The embedded default, exactly as `make serve` runs it."""
    with running_service(ROOT / "configs" / "local.yaml", run_dir(tmp_path_factory)) as running:
        with running_load(running.base_url) as load:
            load.wait_answers(64)  # What the first calls open stays open, and is no leak.
        yield running


@pytest.fixture
def subject(service: Service) -> Subject:
    """The service; a trial waits until what the one before has broken is whole."""
    return Subject(service)
