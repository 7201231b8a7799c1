"""Three engines with small prefix caches, behind this service or behind others."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from serve_app.offline.bench.peers import VLLM_ROUTER, command_of
from serve_app.offline.bench.targets import COMMON_ENV, HOST, Place, Target, build_ours

MODEL = "strong"
ENGINES = 3
BLOCK_TOKENS = 32
CACHE_BLOCKS = 256
"""8,192 tokens: a third of what either kind of conversation has at a time. So all three caches
together hold everything, and one of them does not."""
LARGE_BLOCKS = 4096
CONTEXT_TOKENS = 4096


@dataclass(frozen=True, slots=True)
class Servers:
    """The engines, to be started first and together, and what stands before them.

    `front` is None where clients ask the only engine.
    """

    engines: Sequence[Target]
    ports: Sequence[int]
    front: Target | None


def engine_options(blocks: int) -> Mapping[str, Any]:
    """vLLM's arguments; prefix caching is on by default."""
    return {
        "dtype": "bfloat16",
        "enforce_eager": True,
        "max_model_len": CONTEXT_TOKENS,
        "max_num_seqs": 32,
        "block_size": BLOCK_TOKENS,
        "num_gpu_blocks_override": blocks,
        "enable_prompt_tokens_details": True,
    }


def build_engine(model: Path, port: int, blocks: int) -> Target:
    """One of vLLM's own servers."""
    flags = [f"--model={model}", f"--served-model-name={MODEL}", f"--host={HOST}", f"--port={port}"]
    for name, value in engine_options(blocks).items():
        flag = f"--{name.replace('_', '-')}"
        flags.append(flag if value is True else f"{flag}={value}")
    flags.append("--disable-uvicorn-access-log")
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *flags]
    return Target(f"engine-{port}", command, COMMON_ENV, model=MODEL)


def build_one_large(place: Place, ports: Sequence[int]) -> Servers:
    """One engine whose cache holds everything: what perfect knowledge would find."""
    engine = build_engine(place.model, place.port, LARGE_BLOCKS)
    return Servers([engine], [place.port], None)


def build_vllm_router(place: Place, ports: Sequence[int], *, policy: str) -> Servers:
    """vLLM's router before three of its own servers."""
    flags = [f"--host={HOST}", f"--port={place.port}", f"--policy={policy}", "--log-level=error"]
    flags += [f"--prometheus-host={HOST}", f"--prometheus-port={place.metrics_port}"]
    urls = ["--worker-urls", *(f"http://{HOST}:{port}" for port in ports)]
    command = [*command_of(VLLM_ROUTER, "vllm-router"), *flags, *urls]
    front = Target("vllm-router", command, COMMON_ENV, model=MODEL, requirement=VLLM_ROUTER)
    return Servers([build_engine(place.model, port, CACHE_BLOCKS) for port in ports], ports, front)


def build_service(
    place: Place, ports: Sequence[int], *, replica_choice: str, routers: int = 1
) -> Servers:
    """This service with three replicas of one tier."""
    target = build_ours(place, routers=routers)
    assert target.config is not None, "the service has a config"
    args = target.config["applications"][0]["args"]
    tier = args["tiers"][0]
    tier.update(
        model_id=MODEL,
        engine=engine_options(CACHE_BLOCKS),
        replica_choice=replica_choice,
        replicas={"min": ENGINES, "max": ENGINES},
        max_ongoing_calls=32,
        placement={"cpus_per_worker": 0.2, "cpus_per_server": 0.0},
    )
    return Servers([], [], replace(target, model=MODEL))


Builder = Callable[[Place, Sequence[int]], Servers]
BUILDERS: Mapping[str, Builder] = {
    "one large cache": build_one_large,
    "round robin": partial(build_vllm_router, policy="round_robin"),
    "vllm-router cache_aware": partial(build_vllm_router, policy="cache_aware"),
    "ours balanced": partial(build_service, replica_choice="balanced"),
    "ours session": partial(build_service, replica_choice="session"),
    "ours prefix": partial(build_service, replica_choice="prefix"),
    "ours prefix, two Routers": partial(build_service, replica_choice="prefix", routers=2),
}
