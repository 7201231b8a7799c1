"""Other shapes on the CPU: two replicas placed by session, tensor parallelism, an adapter,
speculative decoding, an engine with spans of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from serve_app import demo
from serve_app.model_files.integrity import make_sums
from tests.serve.conftest import run_dir
from tests.serve.leases import leased, refused
from tests.serve.service import ROOT, Service, running_service, settled, wait_for
from tests.traces.collector import Collector, attributes, running_collector

pytestmark = pytest.mark.serve

RANK = 4
PROMPTS = ["Hello", "What is the capital of France?", "1 2 3 4", "你好", "def main():"]


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with running_collector() as collector:
        yield collector


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[Service]:
    """configs/local-tp2.yaml, with the strong model twice at TP 1.

    At TP 1 it has an adapter and speaks TLS, at TP 2 it speculates and has spans of its own.
    """
    document = yaml.safe_load((ROOT / "configs" / "local-tp2.yaml").read_text())
    args = document["applications"][0]["args"]
    _, strong = args["tiers"]
    single = {
        **strong,
        "name": "single",
        "model_id": "demo-single",
        "sha256sums": make_sums(demo.locate("strong")),
        "engine": {**strong["engine"], "tensor_parallel_size": 1},
        "replicas": {"min": 2, "max": 2, "target_ongoing_calls": 32},
        "replica_choice": "session",
        "tls": True,
        "adapters": {"adapted": str(write_adapter(tmp_path_factory.mktemp("adapter")))},
    }
    speculative = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 3}
    strong["engine"] = {
        **strong["engine"],
        "speculative_config": speculative,
        "otlp_traces_endpoint": collector.endpoint,
    }
    strong["env"] = {**strong["env"], "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"}
    args["tiers"] = [single, strong]
    directory = run_dir(tmp_path_factory)
    config = directory.parent / "tp2.yaml"
    config.write_text(yaml.safe_dump(document))
    with running_service(config, directory) as running:
        yield running


def write_adapter(directory: Path) -> Path:
    """A LoRA adapter of the strong demo model that turns its answers into others."""
    config = json.loads((demo.locate("strong") / "config.json").read_text())
    rng = np.random.default_rng(0)
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        name = f"base_model.model.model.layers.{layer}.mlp.down_proj"
        a = rng.normal(size=(RANK, config["intermediate_size"]))
        b = rng.normal(size=(config["hidden_size"], RANK))
        tensors[f"{name}.lora_A.weight"] = a.astype(np.float32)
        tensors[f"{name}.lora_B.weight"] = b.astype(np.float32)
    save_file(tensors, directory / "adapter_model.safetensors")
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": RANK,
        "lora_alpha": RANK,
        "target_modules": ["down_proj"],
        "bias": "none",
    }
    (directory / "adapter_config.json").write_text(json.dumps(settings))
    return directory


def test_an_adapter_is_addressed_as_a_model(service: Service) -> None:
    """It is listed, answers under its name on its tier, and differently; `auto` never takes it."""
    messages = [{"role": "user", "content": PROMPTS[1]}]
    own = service.chat(model="single", messages=messages, temperature=0)
    adapted = service.chat(model="adapted", messages=messages, temperature=0)
    assert adapted.status_code == 200, adapted.text
    assert adapted.json()["model"] == "adapted"
    assert adapted.headers["x-route-tier"] == "single"
    assert adapted.headers["x-route-model"] == "adapted"
    texts = [answer.json()["choices"][0]["message"]["content"] for answer in (own, adapted)]
    assert texts[0] != texts[1]
    listed = httpx.get(f"{service.base_url}/v1/models", timeout=10).json()["data"]
    assert "adapted" in [model["id"] for model in listed]


def test_an_adapter_is_not_in_the_answers_of_its_neighbours(service: Service) -> None:
    """Calls of the model itself give the same text in one batch with calls of its adapter."""
    messages = [{"role": "user", "content": PROMPTS[1]}]
    same_replica = {"x-session-id": "one-batch"}

    def ask(model: str) -> str:
        body = {"model": model, "messages": messages, "max_tokens": 48, "ignore_eos": True}
        answer = httpx.post(
            f"{service.base_url}/v1/chat/completions",
            json={**body, "temperature": 0},
            headers=same_replica,
            timeout=60,
        )
        return str(answer.json()["choices"][0]["message"]["content"])

    alone = ask("single")
    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(ask, ["single", "adapted"] * 8))
    assert set(texts[::2]) == {alone}
    assert alone not in texts[1::2]


def test_tensor_parallel_answers_are_the_same(service: Service) -> None:
    """Two workers that speculate give the text that one gives that does not."""

    def ask(model: str, prompt: str) -> str:
        messages = [{"role": "user", "content": prompt}]
        answer = service.chat(model=model, messages=messages, temperature=0, max_tokens=32)
        return answer.json()["choices"][0]["message"]["content"]

    for prompt in PROMPTS:
        assert ask("strong", prompt) == ask("single", prompt) != ""


def test_tensor_parallel_is_real(service: Service) -> None:
    """The strong tier has two workers; every other engine works in its own process."""
    titles = [" ".join(process.cmdline()) for process in service.processes()]
    workers = [title for title in titles if "VLLM::Worker" in title]
    assert len(workers) == 2
    assert any("TP1" in title for title in workers)
    assert len([title for title in titles if "VLLM::EngineCore" in title]) == 3


def test_one_trace_from_the_client_through_the_engine(
    service: Service, collector: Collector
) -> None:
    """The engine's own span belongs to the Router's, and tells of queue, prefill and decode."""
    trace_id, client_span = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"

    def ask(headers: dict[str, str]) -> bool:
        messages = [{"role": "user", "content": "Hello"}]
        body = {"model": "strong", "messages": messages, "stream": True, "max_tokens": 8}
        url = f"{service.base_url}/v1/chat/completions"
        assert httpx.post(url, json=body, headers=headers, timeout=60).status_code == 200
        return any(span.name == "engine" for span in collector.spans)

    def joined() -> dict[str, Any]:
        spans = [span for span in collector.spans if span.trace_id.hex() == trace_id]
        return {span.name: span for span in spans}

    service.configure({"traces": {"endpoint": collector.endpoint, "sample_ratio": 1}})
    wait_for(lambda: ask({}), timeout_s=60, what="the Router traces")
    ask({"traceparent": f"00-{trace_id}-{client_span}-01"})
    wait_for(lambda: {"engine", "llm_request"} <= set(joined()), timeout_s=30, what="both spans")
    service.restore()
    spans = joined()
    whole = spans["POST /v1/chat/completions"]
    assert whole.parent_span_id.hex() == client_span
    assert spans["engine"].parent_span_id == whole.span_id
    assert spans["llm_request"].parent_span_id == spans["engine"].span_id
    told = attributes(spans["llm_request"])
    for part in ("time_in_queue", "time_in_model_prefill", "time_in_model_decode"):
        assert float(str(told[f"gen_ai.latency.{part}"])) >= 0
    assert spans["engine"].start_time_unix_nano <= spans["llm_request"].start_time_unix_nano


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
    # Calls of other tests, to any tier, must not be counted among those of the first session.
    settled(lambda: answered(service))
    names = [f"conversation-{number}" for number in range(12)]
    first = [ask(service, name, calls=2) for name in names]
    # No lease of the first round is left by now: Ray is asked again, and decides the same.
    later = [ask(service, name, calls=1) for name in names]
    assert first == later
    assert all(len(served) == 1 for served in first)
    assert len(set.union(*first)) == 2


def test_a_killed_worker_ends_its_engine(service: Service) -> None:
    """The door of the replica says so within two seconds, and another replica answers."""
    (replica,) = service.replica_processes("tier-strong")
    worker = next(
        each
        for each in replica.children(recursive=True)
        if "VLLM::Worker" in " ".join(each.cmdline())
    )
    with leased("tier-strong") as lease:
        assert lease.post("/serve-app/load").status_code == 200
        worker.kill()
        wait_for(lambda: refused(lease) == "engine", timeout_s=2, what="the door says it is dead")
    wait_for(lambda: not replica.is_running(), timeout_s=10, what="the replica is gone")
    wait_for(
        lambda: service.chat(model="strong").status_code == 200,
        timeout_s=180,
        what="another replica answers",
    )


def test_a_killed_replica_takes_its_workers_along(service: Service) -> None:
    """`kill -9` of a replica ends its engine and both workers; the last test, for it does not wait
    until the replica is replaced."""
    (replica,) = service.replica_processes("tier-strong")
    own = service.engine_processes() & {each.pid for each in replica.children(recursive=True)}
    assert len(own) == 3
    replica.kill()
    wait_for(
        lambda: not service.engine_processes() & own, timeout_s=20, what="the processes are gone"
    )
