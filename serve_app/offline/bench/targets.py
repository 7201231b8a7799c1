"""The servers that are compared, each as a command, its environment and its config file."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from serve_app.offline.bench.peers import LITELLM, VLLM_ROUTER, command_of

MODEL_ID = "fast"
HOST = "127.0.0.1"

# A tiny model's threads would only spin against each other on few cores.
COMMON_ENV = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
ENGINE = {
    "dtype": "bfloat16",
    "enforce_eager": True,
    "max_model_len": 4096,
    "max_num_seqs": 64,
}
_HAPROXY_ENV = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}
_TUNED = {"experimental_configs": {"stream_batching_interval_ms": 0}}
# Ray places replicas by the CPUs that they ask for; on two cores nothing would be left for the
# ingress. Placement only: it limits no process.
# The times of each call in the access log; no call is sampled, so nothing is ever sent.
_NOTED = {"endpoint": f"http://{HOST}:9/v1/traces", "sample_ratio": 0.0, "errors": False}
_INGRESS = {"ingress_deployment_config": {"ray_actor_options": {"num_cpus": 0}}}


@dataclass(frozen=True, slots=True)
class Target:
    """One way to serve the model.

    `config` is the config file that the command reads, if it reads one. `model` is what clients ask
    for. `engine` is the server that must answer before this one starts, and `requirement` the
    package of a peer that is installed first.
    """

    name: str
    command: Sequence[str]
    env: Mapping[str, str]
    config: Mapping[str, Any] | None = None
    config_path: Path | None = None
    model: str = MODEL_ID
    engine: Target | None = None
    requirement: str | None = None

    def write_config(self) -> None:
        """Puts the config file where the command expects it; JSON is YAML too."""
        if self.config is not None and self.config_path is not None:
            self.config_path.write_text(json.dumps(self.config, indent=2), encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a target runs: its port, the model's directory, and a directory for its files.

    A target that stands before a plain engine has that engine at `engine_port`, and may have its
    metrics at `metrics_port`. `stages` asks this service to note the times of each call. The path
    of `scratch` must be short: Ray keeps Unix sockets below it.
    """

    port: int
    model: Path
    scratch: Path
    engine_port: int = 0
    metrics_port: int = 0
    stages: bool = False


def build_peer(place: Place) -> Target:
    """The engine's own server, which uses uvloop and httptools by default."""
    flags = [
        f"--model={place.model}",
        f"--served-model-name={MODEL_ID}",
        f"--dtype={ENGINE['dtype']}",
        "--enforce-eager",
        f"--max-model-len={ENGINE['max_model_len']}",
        f"--max-num-seqs={ENGINE['max_num_seqs']}",
        f"--host={HOST}",
        f"--port={place.port}",
        "--disable-uvicorn-access-log",
    ]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *flags]
    return Target("peer", command, COMMON_ENV)


def build_vllm_router(place: Place) -> Target:
    """vLLM's own router, in Rust, before the peer's server."""
    engine = build_peer(replace(place, port=place.engine_port))
    flags = [f"--host={HOST}", f"--port={place.port}", "--policy=round_robin", "--log-level=error"]
    urls = ["--worker-urls", f"http://{HOST}:{place.engine_port}"]
    # Its metrics have a port of their own, and 0 is refused.
    metrics = [f"--prometheus-host={HOST}", f"--prometheus-port={place.metrics_port}"]
    command = [*command_of(VLLM_ROUTER, "vllm-router"), *flags, *metrics, *urls]
    return Target("vllm-router", command, COMMON_ENV, engine=engine, requirement=VLLM_ROUTER)


def build_litellm(place: Place) -> Target:
    """LiteLLM's proxy with one worker, before the peer's server."""
    engine = build_peer(replace(place, port=place.engine_port))
    path = _config_path(place.scratch)
    url = f"http://{HOST}:{place.engine_port}/v1"
    model = {"model": f"hosted_vllm/{MODEL_ID}", "api_base": url, "api_key": "none"}
    config = {"model_list": [{"model_name": MODEL_ID, "litellm_params": model}]}
    flags = ["--config", path, f"--host={HOST}", f"--port={place.port}", "--telemetry=False"]
    env = {
        **COMMON_ENV,
        # Otherwise it asks a site for the prices of models, and waits for it where there is none.
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        # No target checks keys, and LiteLLM starts without its own only if told so.
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
        "LITELLM_LOG": "ERROR",
    }
    command = [*command_of(LITELLM, "litellm"), *flags]
    return Target("litellm", command, env, config, Path(path), engine=engine, requirement=LITELLM)


def build_serve_llm(place: Place) -> Target:
    """Ray Serve LLM as its documentation starts it."""
    return _serve_run("serve-llm", place, {}, {}, _INGRESS)


def build_serve_llm_best(place: Place) -> Target:
    """Ray Serve LLM with every switch that makes its usual path faster."""
    return _serve_run("serve-llm-best", place, _HAPROXY_ENV, _TUNED, _INGRESS)


def build_serve_llm_direct(place: Place) -> Target:
    """Ray Serve LLM tuned, with the bytes going from HAProxy straight to the replica."""
    env = {**_HAPROXY_ENV, "RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING": "1"}
    return _serve_run("serve-llm-direct", place, env, _TUNED, {})


def build_ours(
    place: Place,
    *,
    leases: Mapping[str, float] | None = None,
    routers: int = 1,
    auto: bool = False,
) -> Target:
    """This project; `leases` is the part of the Router's config of that name.

    With `auto` the Router scores each call and chooses between two tiers. No score reaches the
    second, so that one engine has all the work as with the other targets; the other engine idles.
    """
    config_path = _config_path(place.scratch)
    command = [_beside_python("serve-app"), "up", config_path, f"--port={place.port}"]
    tier = {
        "name": "fast",
        "model_id": MODEL_ID,
        "model_source": str(place.model),
        "accelerator": "cpu",
        "engine": ENGINE,
        "env": COMMON_ENV,
        "placement": {"cpus_per_worker": 0.5, "cpus_per_server": 0.0},
    }
    args = {
        "tiers": [tier, {**tier, "name": "strong", "model_id": "strong"}] if auto else [tier],
        "router": {"cpus": 0.0, "replicas": {"min": routers, "max": routers}},
        "runtime": {
            "leases": dict(leases or {}),
            "routing": {"strong_score_min": 1.0},
            "traces": _NOTED if place.stages else None,
        },
    }
    return Target(
        "ours",
        command,
        {**_ray_env(place), "SERVE_APP_RUN": str(place.scratch / "run")},
        _serve_config(place.port, "serve_app.app:build", args),
        Path(config_path),
        model="auto" if auto else MODEL_ID,
    )


def build_responder(place: Place) -> Target:
    """A server that does nothing but answer: the ceiling of the load generator."""
    command = [sys.executable, "-m", f"{__package__}.responder", str(place.port)]
    return Target("ceiling", command, {})


Builder = Callable[[Place], Target]
BUILDERS: Mapping[str, Builder] = {
    "peer": build_peer,
    "serve-llm": build_serve_llm,
    "serve-llm-best": build_serve_llm_best,
    "serve-llm-direct": build_serve_llm_direct,
    "ours": build_ours,
    "ours-new-leases": partial(build_ours, leases={"reuse_s": 0.0}),
    "ours-auto": partial(build_ours, auto=True),
    "ours-two-routers": partial(build_ours, routers=2),
    "vllm-router": build_vllm_router,
    "litellm": build_litellm,
}
DEFAULTS = ("peer", "serve-llm", "serve-llm-best", "serve-llm-direct", "ours")
"""What runs unless the command names its targets. The peers in Rust and Python are installed by
their first run, and variants of `ours` are for comparisons among themselves."""


def _serve_run(
    name: str,
    place: Place,
    env: Mapping[str, str],
    model_options: Mapping[str, Any],
    app_options: Mapping[str, Any],
) -> Target:
    llm_config = {
        "model_loading_config": {"model_id": MODEL_ID, "model_source": str(place.model)},
        "accelerator_config": {"kind": "cpu"},
        "placement_group_config": {"bundles": [{"CPU": 0.5}]},
        "engine_kwargs": ENGINE,
        **model_options,
    }
    args = {"llm_configs": [llm_config], **app_options}
    import_path = "ray.serve.llm:build_openai_app"
    env = {**_ray_env(place), **env}
    return build_serve_run(name, place.port, place.scratch, env, import_path, args)


def build_serve_run(
    name: str,
    port: int,
    scratch: Path,
    env: Mapping[str, str],
    import_path: str,
    args: Mapping[str, Any],
) -> Target:
    """An application on a Ray cluster of its own."""
    path = _config_path(scratch)
    # `local`: never join a cluster that happens to run on this machine.
    command = [_beside_python("serve"), "run", "--address=local", path]
    return Target(name, command, env, _serve_config(port, import_path, args), Path(path))


def _ray_env(place: Place) -> dict[str, str]:
    return {**COMMON_ENV, "RAY_TMPDIR": str(place.scratch)}


def _serve_config(port: int, import_path: str, args: Mapping[str, Any]) -> dict[str, Any]:
    application = {
        "name": "app",
        "route_prefix": "/",
        "import_path": import_path,
        "args": args,
    }
    return {
        "http_options": {"host": HOST, "port": port},
        "applications": [application],
    }


def _config_path(scratch: Path) -> str:
    return str(scratch / "serve.yaml")


def _beside_python(script: str) -> str:
    return str(Path(sys.executable).with_name(script))
