"""The rates of a tier, measured through the Router of a real service."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from serve_app.cli.main import app
from tests.serve.service import Service, settled

pytestmark = pytest.mark.serve

SHAPE = ("--prompt-tokens", "64", "--output-tokens", "96", "--clients", "8")


def test_rates_of_a_running_replica(local: Service) -> None:
    """The tier alone is asked, in full; its work adds up to the calls that it took."""
    other = settled(lambda: local.metric("ray_serve_app_calls_total", tier="strong"))
    command = ["measure-rates", str(local.config), "fast", "--base-url", f"{local.base_url}/v1"]
    result = CliRunner().invoke(app, [*command, *SHAPE, "--seconds", "2", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["tier"], found["replicas"]) == ("fast", 1)
    assert 0 < found["first_token_p50_s"] <= found["first_token_p99_s"]
    work_s = 64 / found["prompt_tokens_per_s"] + 96 / found["output_tokens_per_s"]
    assert 1 / work_s == pytest.approx(found["calls_per_s"], rel=0.2)
    assert settled(lambda: local.metric("ray_serve_app_calls_total", tier="strong")) == other
