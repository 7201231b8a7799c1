"""The servers that are compared: one bare vLLM a tier, and the service with all tiers."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import JsonValue

from serve_app.config.environment import ray_environment
from serve_app.config.reader import ServeConfig
from serve_app.config.tiers import TierConfig
from serve_app.deploy.plan import plan_engine, resolve_source
from serve_app.offline.bench.targets import HOST, Target

OURS = (sys.executable, "-m", "serve_app.cli.main")
"""The `serve-app` of this very code, wherever the other one may be."""

_QUIET = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "RAY_USAGE_STATS_ENABLED": "0"}


def build_bare(tier: TierConfig, port: int) -> Target:
    """vLLM's own server with the tier's model, engine arguments and environment."""
    command = [
        sys.executable,
        "-m",
        "vllm.entrypoints.openai.api_server",
        f"--model={resolve_source(tier)}",
        f"--served-model-name={tier.model_id}",
        f"--host={HOST}",
        f"--port={port}",
        "--disable-uvicorn-access-log",
        *render_flags(plan_engine(tier)),
    ]
    return Target(f"bare {tier.name}", command, {**_QUIET, **_engine_environment(), **tier.env})


def _engine_environment() -> dict[str, str]:
    """What `serve-app up` sets for engines."""
    ours = ray_environment()
    return {
        "OMP_NUM_THREADS": "1",
        **{name: value for name, value in ours.items() if name.startswith("VLLM_")},
    }


def build_service(config: ServeConfig, port: int, scratch: Path) -> Target:
    """The whole service on a cluster of its own; `scratch` must have a short path."""
    path = scratch / "serve.yaml"
    env = {**_QUIET, "RAY_TMPDIR": str(scratch), "SERVE_APP_RUN": str(scratch / "run")}
    document = config.with_port(port).document
    return Target("service", [*OURS, "up", str(path)], env, document, path)


def render_flags(engine: Mapping[str, JsonValue]) -> Iterator[str]:
    """Engine arguments as vLLM's command line takes them."""
    for key, value in engine.items():
        flag = key.replace("_", "-")
        match value:
            case bool():
                yield f"--{flag}" if value else f"--no-{flag}"
            case list():
                yield f"--{flag}"
                yield from map(str, value)
            case dict():
                yield f"--{flag}={json.dumps(value)}"
            case _:
                yield f"--{flag}={value}"
