"""`serve-app measure-rates`: the two rates of `replicas.policy: llm`, from a running replica."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, NoReturn

import httpx
import orjson
import typer
import uvloop

from serve_app.cli.check import read_or_exit
from serve_app.config.reader import ServeConfig
from serve_app.config.tiers import TierConfig
from serve_app.offline.bench.bench_errors import BenchFailed, ReplicasChanged
from serve_app.offline.bench.rates import Endpoint, Rates, Shape, measure_rates
from serve_app.offline.planning.roofline import Workload
from serve_app.offline.planning.starting import round_down

_SEQUENCES = 256
"""Concurrent calls if the tier's `engine` has no `max_num_seqs`."""
_READY_TIMEOUT_S = 10.0
_API = "/v1"


def measure(
    config: Annotated[Path, typer.Argument(help="The Serve config file of the running service.")],
    tier: Annotated[str, typer.Argument(help="The tier to measure, for example `strong`.")],
    base_url: Annotated[
        str | None,
        typer.Option(
            help="Base URL of the endpoint, as for OpenAI's clients: another Router, or an "
            "engine's own server. Default: the config's address on this machine."
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Model to request. Default: the tier's name.")
    ] = None,
    prompt_tokens: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="Tokens in the prompt of a typical call.")
    ] = Workload().prompt_tokens,
    output_tokens: Annotated[
        int, typer.Option(min=2, max=1_000_000, help="Tokens in the prompt of a typical call.")
    ] = Workload().output_tokens,
    clients: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=65536,
            help="Concurrent calls on each replica. Default: as many as the tier takes, by "
            "engine.max_num_seqs and max_ongoing_calls.",
        ),
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0.1, max=3600, help="Length of each of the two phases.")
    ] = 60,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")] = False,
) -> None:
    """Measure the tokens per second that a replica of one tier reads and writes in typical calls.

    The tier should have no other load meanwhile, and its number of replicas should not change.
    """
    serve_config = read_or_exit(config)
    found = _find_tier(serve_config, tier)
    shape = Shape(prompt_tokens, output_tokens, clients or choose_clients(found))
    _check_length(found, shape)
    endpoint = parse_endpoint(base_url or serve_config.base_url + _API, model or found.name)
    try:
        rates, replicas = _measure(endpoint, found.name, shape, seconds)
    except BenchFailed as failure:
        typer.echo(str(failure), err=True)
        raise typer.Exit(1) from None
    if json:
        typer.echo(orjson.dumps({"tier": found.name, "replicas": replicas, **asdict(rates)}))
    else:
        typer.echo(render(found.name, shape, rates, replicas))


def choose_clients(tier: TierConfig) -> int:
    """The concurrent calls of a replica, from the config."""
    sequences = tier.engine.get("max_num_seqs")
    most = sequences if isinstance(sequences, int) and sequences > 0 else _SEQUENCES
    return min(most, tier.max_ongoing_calls)


def parse_endpoint(base_url: str, model: str) -> Endpoint:
    """The address of the completions endpoint below an OpenAI-compatible base URL."""
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL:
        url = httpx.URL("")
    if url.scheme != "http" or not url.host:
        raise typer.BadParameter(f"'{base_url}' is not an http:// address", param_hint="--base-url")
    path = url.path.rstrip("/") + "/completions"
    return Endpoint(url.host, url.port or 80, path, model)


def _measure(endpoint: Endpoint, tier: str, shape: Shape, seconds: float) -> tuple[Rates, int]:
    """The rates of one replica, and the number of replicas that shared the load."""
    before = count_replicas(endpoint, tier)
    load = Shape(shape.prompt_tokens, shape.output_tokens, shape.clients * before)
    rates = uvloop.run(measure_rates(endpoint, load, seconds))
    after = count_replicas(endpoint, tier)
    if before != after:
        raise ReplicasChanged(tier, before, after)
    return rates.divide(before), before


def count_replicas(endpoint: Endpoint, tier: str) -> int:
    """The running replicas of a tier behind a Router; an engine's own server counts as one."""
    root = endpoint.path.removesuffix(f"{_API}/completions")
    url = f"http://{endpoint.host}:{endpoint.port}{root}/ready"
    try:
        answer = httpx.get(url, timeout=_READY_TIMEOUT_S)
        tiers = {row["name"]: row["replicas"] for row in answer.json()["tiers"]}
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return 1  # Not our Router; if no server listens there, the first call reports it.
    return max(1, int(tiers.get(tier, 1)))


def render(tier: str, shape: Shape, rates: Rates, replicas: int) -> str:
    """The measured rates, and the lines for the config, rounded down."""
    shared = "" if replicas == 1 else f", the mean of {replicas} replicas"
    return "\n".join(
        (
            f"{tier}: calls of {shape.prompt_tokens:,} tokens in and {shape.output_tokens:,} out, "
            f"{shape.clients} at a time on a replica{shared}",
            f"  read, if it does nothing else  {rates.prompt_tokens_per_s:>10,.0f} tokens/s",
            f"  written beside those prompts   {rates.output_tokens_per_s:>10,.0f} tokens/s",
            f"  calls                          {rates.calls_per_s:>10,.2f} /s",
            f"  first token, p50 and p99       {rates.first_token_p50_s:>10,.2f} "
            f"and {rates.first_token_p99_s:,.2f} s",
            "",
            "replicas:",
            "  policy: llm",
            f"  prompt_tokens_per_s: {round_down(rates.prompt_tokens_per_s):g}",
            f"  output_tokens_per_s: {round_down(rates.output_tokens_per_s):g}",
        )
    )


def _find_tier(config: ServeConfig, name: str) -> TierConfig:
    for tier in config.app.tiers:
        if tier.name == name and "generate" not in tier.tasks:
            _refuse(f"tier '{name}' writes nothing, so it has no rate of output tokens to measure")
        if tier.name == name:
            return tier
    names = ", ".join(tier.name for tier in config.app.tiers)
    _refuse(f"there is no tier '{name}', only {names}")


def _check_length(tier: TierConfig, shape: Shape) -> None:
    longest = tier.max_model_len
    if longest is not None and shape.prompt_tokens + shape.output_tokens > longest:
        _refuse(
            f"calls of {shape.prompt_tokens + shape.output_tokens} tokens are longer than "
            f"engine.max_model_len of {tier.name}, {longest}"
        )


def _refuse(message: str) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(2)
