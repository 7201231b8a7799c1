"""A variant that answers garbage, live on the CPU pair: set, seen, rolled back, promoted."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.serve.conftest import run_dir
from tests.serve.service import ROOT, Service, running_service, tool, wait_for

pytestmark = [pytest.mark.serve, pytest.mark.faults]

QUESTION = [{"role": "user", "content": "What is 2 + 2?"}]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded default, and for `fast` a variant whose weights are random numbers."""
    document: dict[str, Any] = yaml.safe_load((ROOT / "configs" / "local.yaml").read_text())
    [application] = document["applications"]
    engine = application["args"]["tiers"][0]["engine"]
    application["args"]["variants"] = [
        {
            "tier": "fast",
            "name": "garbage",
            "model_source": "demo:fast",
            "engine": {**engine, "load_format": "dummy"},
        }
    ]
    [router] = application["deployments"]
    feedback = {"directory": str(tmp_path_factory.mktemp("feedback")), "sample_ratio": 0.0}
    router["user_config"]["feedback"] = feedback
    path = tmp_path_factory.mktemp("config") / "canary.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def service(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running_service(config, run_dir(tmp_path_factory)) as running:
        yield running


def canary(*arguments: object) -> str:
    """The output of `serve-app canary`."""
    command = [tool("serve-app"), "canary", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def ask(service: Service) -> httpx.Response:
    return service.chat(model="fast", messages=QUESTION, temperature=0, max_tokens=8)


def text_of(response: httpx.Response) -> str:
    return str(response.json()["choices"][0]["message"]["content"])


def test_garbage_is_out_within_a_minute_and_no_call_is_lost(service: Service, config: Path) -> None:
    """Clients report wrong answers to `/v1/feedback`; at 10 % the Router takes the calls back."""
    right = text_of(ask(service))
    wait_for(
        lambda: '"replicas":1' in canary("status", "--json").replace(" ", ""),
        timeout_s=240,
        what="the variant runs",
    )
    canary("set", config, "fast", "garbage", "10%")
    began_at = time.monotonic()
    stop = threading.Event()

    def keep_asking() -> Counter[tuple[int, str | None, bool]]:
        seen: Counter[tuple[int, str | None, bool]] = Counter()
        while not stop.is_set():
            response = ask(service)
            good = response.status_code == 200 and text_of(response) == right
            seen[response.status_code, response.headers.get("x-route-variant"), good] += 1
            report = {"request_id": response.headers["x-request-id"], "right": good}
            httpx.post(f"{service.base_url}/v1/feedback", json=report).raise_for_status()
        return seen

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(keep_asking) for _ in range(4)]
        try:
            wait_for(
                lambda: service.metric("ray_serve_app_variant_rolled_back", variant="garbage") == 1,
                timeout_s=60,
                what="the variant is rolled back",
            )
        finally:
            stop.set()
        seen = sum((each.result() for each in asking), Counter())
    print(f"rolled back after {time.monotonic() - began_at:.1f} s: {seen}")
    assert {status for status, _, _ in seen} == {200}, seen
    assert all(good for (_, variant, good) in seen if variant is None), seen
    assert any(variant == "garbage" and not good for (_, variant, good) in seen), seen
    after = [ask(service) for _ in range(50)]
    assert not any("x-route-variant" in response.headers for response in after)
    rows = {row["variant"]: row for row in json.loads(canary("status", "--json"))}
    assert rows["garbage"]["rolled_back"] == "disliked"
    assert rows["(incumbent)"]["bad"] == {}


def test_a_promotion_takes_over_at_once(service: Service, config: Path) -> None:
    """And an abort gives everything back; the file says what the Routers have."""
    canary("promote", config, "fast", "garbage")
    assert ask(service).headers["x-route-variant"] == "garbage"
    canary("abort", config, "fast", "garbage")
    assert "x-route-variant" not in ask(service).headers
    written = yaml.safe_load(config.read_text())
    [router] = written["applications"][0]["deployments"]
    assert router["user_config"]["variants"]["fast"]["shares"] == {}
