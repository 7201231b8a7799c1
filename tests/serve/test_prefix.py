"""Two real replicas chosen by what they have cached, by two Routers."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
import yaml

from tests.serve.conftest import run_dir
from tests.serve.service import ROOT, Service, running_service, settled, wait_for

pytestmark = pytest.mark.serve

TENANTS = 8
ROUNDS = 6
SYSTEM_BYTES = 5000


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The fast tier of configs/local.yaml, with two replicas behind two Routers."""
    document = yaml.safe_load((ROOT / "configs" / "local.yaml").read_text())
    args = document["applications"][0]["args"]
    fast = args["tiers"][0]
    fast["replica_choice"] = "prefix"
    fast["replicas"] = {"min": 2, "max": 2, "target_ongoing_calls": 32}
    args["tiers"] = [fast]
    args["router"]["replicas"] = {"min": 2, "max": 2, "target_ongoing_calls": 512}
    user_config = document["applications"][0]["deployments"][0]["user_config"]
    del user_config["prices"]
    directory = run_dir(tmp_path_factory)
    config = directory.parent / "prefix.yaml"
    config.write_text(yaml.safe_dump(document))
    with running_service(config, directory) as running:
        yield running


def ask(service: Service, tenant: int, turn: int) -> int:
    """A call with a tenant's long system prompt, on a connection of its own: its prompt tokens."""
    rule = f"Rule {tenant} of this house: answer in one word. "
    messages = [
        {"role": "system", "content": (rule * SYSTEM_BYTES)[:SYSTEM_BYTES]},
        {"role": "user", "content": f"Question {turn}"},
    ]
    body = {"messages": messages, "max_tokens": 2}
    answer = httpx.post(f"{service.base_url}/v1/chat/completions", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return int(answer.json()["usage"]["prompt_tokens"])


def counted(service: Service) -> tuple[float, float]:
    """The prompt tokens that vLLM has looked for in its prefix caches, and those that it found."""
    return (
        service.metric("ray_vllm_prefix_cache_queries_total"),
        service.metric("ray_vllm_prefix_cache_hits_total"),
    )


def test_each_beginning_is_read_once(service: Service) -> None:
    """Whichever Router gets the call: not once on each replica, as when the load alone decides."""
    asked_before, found_before = settled(lambda: counted(service))
    prompts = [[ask(service, tenant, turn) for tenant in range(TENANTS)] for turn in range(ROUNDS)]
    tokens = sum(map(sum, prompts))
    wait_for(
        lambda: counted(service)[0] - asked_before >= tokens,
        timeout_s=30,
        what="the engines have counted all prompts",
    )
    asked, found = settled(lambda: counted(service))
    read = (asked - asked_before) - (found - found_before)
    once = sum(prompts[0])
    assert once <= read <= 1.5 * once


def test_both_replicas_get_calls(service: Service) -> None:
    """New beginnings are spread by the load."""
    by_replica = settled(lambda: service.metric_by("ray_vllm_request_success_total", "ReplicaId"))
    assert len([count for count in by_replica.values() if count]) == 2
