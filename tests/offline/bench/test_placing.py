"""The bench of the choice of a replica on real engines, without the engines."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
import typer
from aiohttp import web

from serve_app.config.app import AppConfig
from serve_app.offline.bench.placing.asking import CallFailed, Result, drive
from serve_app.offline.bench.placing.command import build_grids, parse_names
from serve_app.offline.bench.placing.servers import BUILDERS, CACHE_BLOCKS, MODEL, Servers
from serve_app.offline.bench.placing.workloads import Thread, Workload, build_workloads
from serve_app.offline.bench.targets import Place

PLACE = Place(8000, Path("/models/strong"), Path("/tmp/scratch"), metrics_port=9000)
PORTS = (8001, 8002, 8003)


def build(name: str) -> Servers:
    return BUILDERS[name](PLACE, PORTS)


@asynccontextmanager
async def engine(usage: dict[str, Any] | None) -> AsyncIterator[tuple[str, list[Any]]]:
    """A server that answers every call with two pieces of text, and what it was asked."""
    asked: list[Any] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append((request.headers["x-session-id"], await request.json()))
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for text in ("one ", "two"):
            event = {"choices": [{"delta": {"content": text}}]}
            await response.write(b"data: " + orjson.dumps(event) + b"\n\n")
        if usage is not None:
            event = {"choices": [], "usage": usage}
            await response.write(b"data: " + orjson.dumps(event) + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        return response

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}", asked
    finally:
        await runner.cleanup()


async def test_a_conversation_asks_with_the_answers_before() -> None:
    """Each call holds the texts of the calls before it, and the same session."""
    workload = Workload("two turns", [Thread("c1", "be brief", ["first", "second"])], 1)
    usage = {"prompt_tokens": 100, "prompt_tokens_details": {"cached_tokens": 40}}
    async with engine(usage) as (url, asked):
        result = await drive("server", url, "strong", workload)
    assert [session for session, _ in asked] == ["c1", "c1"]
    assert [message["content"] for message in asked[1][1]["messages"]] == [
        "be brief",
        "first",
        "one two",
        "second",
    ]
    assert (result.calls, result.prompt_tokens, result.hit_ratio) == (2, 200, 0.4)


async def test_an_answer_without_usage_fails() -> None:
    """Nothing is reported of a server that does not count tokens."""
    workload = Workload("one turn", [Thread("c1", "", ["first"])], 1)
    async with engine(None) as (url, _):
        with pytest.raises(CallFailed, match="usage"):
            await drive("server", url, "strong", workload)


def test_another_seed_has_other_texts() -> None:
    """No server finds in its cache what the bench has asked another one."""
    first, second = build_workloads(1), build_workloads(2)
    assert [each.calls for each in first] == [each.calls for each in second] == [192, 144, 96]
    texts = [{thread.system + thread.questions[0] for thread in each.threads} for each in first]
    others = [{thread.system + thread.questions[0] for thread in each.threads} for each in second]
    assert all(not a & b for a, b in zip(texts, others, strict=True))


@pytest.mark.parametrize("name", ["ours balanced", "ours session", "ours prefix"])
def test_the_service_has_the_engines_of_the_others(name: str) -> None:
    """Its config is valid, and has the same cache for each replica as vLLM's own servers."""
    front = build(name).front
    assert front is not None
    assert front.config is not None
    tier = AppConfig.model_validate(front.config["applications"][0]["args"]).tiers[0]
    assert tier.engine["num_gpu_blocks_override"] == CACHE_BLOCKS
    assert (tier.model_id, tier.replicas.min, tier.replicas.max) == (MODEL, 3, 3)
    assert tier.replica_choice == name.split()[1]
    flags = build("round robin").engines[0].command
    assert f"--num-gpu-blocks-override={CACHE_BLOCKS}" in flags


def test_the_router_knows_every_engine() -> None:
    """vLLM's router has the ports of the engines that are started for it."""
    servers = build("vllm-router cache_aware")
    assert servers.front is not None
    assert "--policy=cache_aware" in servers.front.command
    assert [f"http://127.0.0.1:{port}" for port in PORTS] == list(servers.front.command[-3:])
    assert len(servers.engines) == len(servers.ports) == 3


def test_hits_are_compared_with_one_large_cache() -> None:
    """That is what perfect knowledge would find; a row without it has no such part."""
    results = [
        Result("one large cache", "tenants", 10, 5.0, 20.0, 40.0, 1000, 0.8),
        Result("ours prefix", "tenants", 10, 5.0, 20.0, 40.0, 1000, 0.6),
    ]
    assert [row[-1] for row in build_grids(results)[0].rows] == ["1.00", "0.75"]
    assert build_grids(results[1:])[0].rows[0][-1] == "-"


def test_an_unknown_server_is_named() -> None:
    """The message lists the servers that there are."""
    with pytest.raises(typer.BadParameter, match="ours prefix"):
        parse_names("nonsense")
    assert parse_names("ours prefix; round robin") == ["round robin", "ours prefix"]
