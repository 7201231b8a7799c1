"""One service with two replicas of one tier, and room for one replica more of the others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.faults.trial import Subject
from tests.outcomes.load import running_load
from tests.serve.conftest import run_dir
from tests.serve.service import ROOT, Service, running_service

SURGE = {"max_surge_percent": 100}
"""The new replica starts before the old one stops."""


def document() -> dict[str, Any]:
    """configs/local.yaml with `fast` twice, and surges of the deployments that have one replica."""
    found: dict[str, Any] = yaml.safe_load((ROOT / "configs" / "local.yaml").read_text())
    (application,) = found["applications"]
    fast = application["args"]["tiers"][0]
    fast["replicas"] = {"min": 1, "max": 2, "target_ongoing_calls": 32}
    (router,) = application["deployments"]
    application["deployments"] = [
        {**router, **SURGE},
        {"name": "tier-fast", "autoscaling_config": replicas(2)},
        {"name": "tier-strong", **SURGE},
    ]
    return found


def replicas(number: int) -> dict[str, Any]:
    """Exactly so many replicas, as Serve's own key says it."""
    return {"min_replicas": number, "max_replicas": number, "target_ongoing_requests": 32}


@pytest.fixture(scope="package")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service, after its first calls."""
    directory = run_dir(tmp_path_factory)
    config = directory.parent / "drains.yaml"
    config.write_text(yaml.safe_dump(document()))
    with running_service(config, directory) as running:
        with running_load(running.base_url) as load:
            load.wait_answers(64)
        yield running


@pytest.fixture
def subject(service: Service) -> Subject:
    """The service under trial."""
    return Subject(service)
