"""`serve-app bench replicas`: the simulated engine, the config of a run, and its report."""

from __future__ import annotations

import asyncio
import inspect
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from serve_app.cli.main import app
from serve_app.config.app import AppConfig
from serve_app.offline.bench.clocks import Part
from serve_app.offline.bench.replica_report import build_grids
from serve_app.offline.bench.replica_runs import (
    ReplicaPlan,
    Size,
    SizeResult,
    build_target,
    count_running,
    parse_size,
    read_counts,
)
from serve_app.offline.bench.simulated import (
    COUNTS_PATH,
    LOOPBACK,
    Counts,
    SimulatedEngine,
    SimulatedReplica,
    SimulationOptions,
)
from serve_app.replica.engine_http import EngineHTTPServer
from serve_app.replica.server import TierServer
from tests.offline.bench.fakes import make_phase
from tests.offline.bench.test_grids import PEER

ENGINE = replace(
    PEER,
    target="engine",
    requests_per_s=100.0,
    ttft_p50_ms=2.0,
    ttft_p99_ms=5.0,
    cpu_ms={Part.SERVER: 1.5},
)
SERVICE = replace(
    PEER,
    target="service",
    requests_per_s=50.0,
    ttft_p50_ms=6.0,
    ttft_p99_ms=15.0,
    cpu_ms={Part.SERVER: 3.0, Part.ROUTER: 1.6, Part.HAPROXY: 0.5, Part.LOAD_GENERATOR: 9.0},
)
RESULT = SizeResult(
    Size(8, 2),
    engine=ENGINE,
    service=SERVICE,
    engine_again=replace(ENGINE, ttft_p50_ms=4.0),
    idle_ms_per_s={Part.SERVER: 40.0, Part.ROUTER: 20.0, Part.GCS: 5.0},
    lease_calls=30,
    answered=120,
)


def ask(engine: SimulatedEngine, **body: object) -> httpx.Response:
    """What the engine answers to a chat."""

    async def post() -> httpx.Response:
        transport = httpx.ASGITransport(engine)
        async with httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
            return await client.post("/v1/chat/completions", json={"messages": [], **body})

    return asyncio.run(post())


def test_a_stream_has_as_many_tokens_as_were_asked_for() -> None:
    """The last one ends for its length; usage comes only to a caller who wants it."""
    counts = Counts()
    engine = SimulatedEngine(0.0, counts)
    options = {"include_usage": True}
    plain = ask(engine, stream=True, max_tokens=5)
    told = ask(engine, stream=True, max_tokens=5, stream_options=options)
    events = [line.removeprefix("data: ") for line in plain.text.split("\n\n") if line]
    assert events.pop() == "[DONE]"
    reasons = [json.loads(event)["choices"][0]["finish_reason"] for event in events]
    assert reasons == [None] * 4 + ["length"]
    assert "usage" not in plain.text
    assert '"completion_tokens":5' in told.text
    assert counts.calls == 2


def test_a_whole_answer_has_its_usage() -> None:
    """And the content of all tokens."""
    body = ask(SimulatedEngine(0.0, Counts()), max_tokens=3).json()
    assert body["choices"][0]["message"]["content"] == " word word word"
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 3


async def test_counts_are_read_from_every_replica() -> None:
    """Leases and calls, added up."""
    ports = []
    servers = []
    for leases, calls in ((3, 10), (1, 20)):
        engine = SimulatedEngine(0.0, Counts(leases, calls))
        servers.append(EngineHTTPServer(engine, LOOPBACK))
        await servers[-1].wait_started()
        ports.append(servers[-1].address[1])
    assert await asyncio.to_thread(read_counts, ports) == (4, 30)
    for server in servers:
        await server.close()
    assert COUNTS_PATH.startswith("/")


def test_a_lease_is_asked_for_as_of_a_real_replica() -> None:
    """Routers call both alike."""
    ours, real = (inspect.signature(cls.lease) for cls in (SimulatedReplica, TierServer))
    assert ours == real


def test_no_replica_imports_the_engine() -> None:
    """Dozens of replicas fit on a machine because none of them holds vLLM and torch."""
    code = "import sys, serve_app.offline.bench.simulated; sys.exit('vllm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("text", "size"), [("1x1", Size(1, 1)), (" 32x8", Size(32, 8))])
def test_sizes(text: str, size: Size) -> None:
    """Replicas, then Routers."""
    assert parse_size(text) == size


def plan(**leases: float) -> ReplicaPlan:
    """What is measured of each size."""
    return ReplicaPlan(make_phase(0), 0.02, leases, True, None, lambda text: None)


def test_the_service_has_the_size_that_is_measured(tmp_path: Path) -> None:
    """The config is one that the application accepts, and neither tier nor Router scales."""
    target = build_target(Size(8, 2), plan(reuse_s=0.0), 1234, tmp_path)
    target.write_config()
    document = json.loads((tmp_path / "serve.yaml").read_text())
    config = AppConfig.model_validate(document["applications"][0]["args"])
    [tier] = config.tiers
    assert (tier.replicas.min, tier.replicas.max) == (8, 8)
    assert (config.router.replicas.min, config.router.replicas.max) == (2, 2)
    assert config.runtime.leases.reuse_s == 0
    assert document["http_options"]["port"] == 1234
    options = SimulationOptions(**tier.engine)  # type: ignore[arg-type]  # `as_engine` made it
    assert options == SimulationOptions(0.02, str(tmp_path / "engines"))


@pytest.mark.parametrize(("haproxy", "value"), [(True, "1"), (False, "0")])
def test_ray_gets_the_environment_of_the_service(tmp_path: Path, haproxy: bool, value: str) -> None:
    """A cluster of its own, below the directory of the run."""
    env = build_target(Size(1, 1), replace(plan(), haproxy=haproxy), 1, tmp_path).env
    assert env["RAY_SERVE_ENABLE_HA_PROXY"] == value
    assert env["RAY_TMPDIR"] == str(tmp_path)


def test_only_running_replicas_count() -> None:
    """Of every deployment that the dashboard shows."""

    def deployment(*states: str) -> dict[str, Any]:
        return {"replicas": [{"state": state} for state in states]}

    deployments = {"Router": deployment("RUNNING"), "tier-fast": deployment("RUNNING", "STARTING")}
    assert count_running({"applications": {"app": {"deployments": deployments}}}) == 2
    assert count_running({"applications": {}}) == 0


def test_what_a_part_spends_anyway_is_no_cost_of_a_call() -> None:
    """40 ms a second at 50 calls a second are 0.8 ms of each call; never less than nothing."""
    assert RESULT.call_cpu_ms(Part.SERVER) == pytest.approx(3.0 - 0.8)
    assert RESULT.call_cpu_ms(Part.ROUTER) == pytest.approx(1.6 - 0.4)
    assert RESULT.call_cpu_ms(Part.GCS) == 0.0
    assert RESULT.engine_cpu_ms == pytest.approx(1.5 - 0.4)
    assert RESULT.lease_ratio == 0.25


def test_the_report() -> None:
    """Rates beside the engine's, CPU of a call as a multiple of the first size's, idle CPU."""
    dearer = {**SERVICE.cpu_ms, Part.ROUTER: 5.5}
    larger = replace(RESULT, size=Size(32, 2), service=replace(SERVICE, cpu_ms=dearer))
    rates, call, idle = build_grids([RESULT, larger])
    assert rates.rows[0] == [
        *("8 replicas, 2 Routers", "50.0", "6.0", "3.0", "3.0"),
        *("15.0", "5.0", "10.0", "0.25", "1%"),
    ]
    cells = [dict(zip(call.header, row, strict=True)) for row in call.rows]
    assert [row["x first"] for row in cells] == ["1.00", "2.00"]
    assert (cells[0]["serving"], cells[0]["replicas"], cells[0]["Routers"]) == (
        *("3.90", "2.20"),
        "1.20",
    )
    assert cells[0]["replica asked directly"] == "1.10"
    [first, _] = [dict(zip(idle.header, row, strict=True)) for row in idle.rows]
    assert (first["a replica"], first["a Router"], first["rest of Ray"]) == ("5.0", "10.0", "5")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--sizes", "8"], "'8' is not a size; write REPLICASxROUTERS"),
        (["--sizes", "0x1"], "'0x1' is not a size"),
        (["--json", "/nowhere/out.json"], "cannot be written"),
        (["--log", "/nowhere/log.md"], "cannot be written"),
    ],
)
def test_wrong_arguments(arguments: list[str], complaint: str) -> None:
    """What cannot be measured or kept is refused before anything starts."""
    result = CliRunner().invoke(app, ["bench", "replicas", *arguments])
    assert result.exit_code == 2
    assert complaint in " ".join(result.output.replace("│", " ").split())
