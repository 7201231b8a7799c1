"""Conversations and replicas on real Ray: two replicas of one tier, placed by session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from tests.serve.conftest import run_dir
from tests.serve.service import ROOT, Service, running_service, wait_for

pytestmark = pytest.mark.serve


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The fast tier alone, twice."""
    document = yaml.safe_load((ROOT / "configs" / "local.yaml").read_text())
    arguments = document["applications"][0]["args"]
    fast = arguments["tiers"][0]
    fast["replicas"] = {"min": 2, "max": 2, "target_ongoing_calls": 32}
    fast["replica_choice"] = "session"
    arguments["tiers"] = [fast]
    directory = run_dir(tmp_path_factory)
    config = Path(directory.parent / "two.yaml")
    config.write_text(yaml.safe_dump(document))
    with running_service(config, directory) as running:
        yield running


def answered(service: Service) -> dict[str, float]:
    """How many calls each replica's engine has answered."""
    return service.metric_by("ray_vllm_request_success_total", "ReplicaId")


def ask(service: Service, session: str, calls: int) -> set[str]:
    """The replicas that answered so many calls of a session."""
    before = answered(service)
    url = f"{service.base_url}/v1/chat/completions"
    body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
    for _ in range(calls):
        answer = httpx.post(url, json=body, headers={"x-session-id": session}, timeout=60)
        assert answer.status_code == 200, answer.text

    def grown() -> dict[str, float]:
        return {name: n - before.get(name, 0.0) for name, n in answered(service).items()}

    wait_for(lambda: sum(grown().values()) >= calls, timeout_s=20, what="all calls are counted")
    return {name for name, count in grown().items() if count}


def test_a_conversation_keeps_its_replica(service: Service) -> None:
    """Each conversation has one replica, later too, and together they have both."""
    names = [f"conversation-{number}" for number in range(12)]
    first = [ask(service, name, calls=2) for name in names]
    # No lease of the first round is left by now: Ray is asked again, and decides the same.
    later = [ask(service, name, calls=1) for name in names]
    assert first == later
    assert all(len(served) == 1 for served in first)
    assert len(set.union(*first)) == 2
