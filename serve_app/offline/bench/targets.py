"""The servers that are compared, each as a command, its environment and its config file."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
_INGRESS = {"ingress_deployment_config": {"ray_actor_options": {"num_cpus": 0}}}


@dataclass(frozen=True, slots=True)
class Target:
    """One way to serve the model.

    `config` is the Serve config file that the command reads, if it reads one.
    """

    name: str
    command: Sequence[str]
    env: Mapping[str, str]
    config: Mapping[str, Any] | None = None
    config_path: Path | None = None

    def write_config(self) -> None:
        """Puts the config file where the command expects it; JSON is YAML too."""
        if self.config is not None and self.config_path is not None:
            self.config_path.write_text(json.dumps(self.config, indent=2), encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a target runs: its port, the model's directory, and a directory for its files.

    The path of `scratch` must be short: Ray keeps Unix sockets below it.
    """

    port: int
    model: Path
    scratch: Path


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


def build_ours(place: Place, leases: Mapping[str, float] | None = None) -> Target:
    """This project, one tier; `leases` is the part of the Router's config of that name."""
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
        "tiers": [tier],
        "router": {"cpus": 0.0, "replicas": {"min": 1, "max": 1}},
        "runtime": {"leases": dict(leases or {})},
    }
    return Target(
        "ours",
        command,
        {**_ray_env(place), "SERVE_APP_RUN": str(place.scratch / "run")},
        _serve_config(place.port, "serve_app.app:build", args),
        Path(config_path),
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
}


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
