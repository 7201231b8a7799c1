"""The servers that are compared get the same engine."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from serve_app.config.app import AppConfig
from serve_app.offline.bench.targets import (
    BUILDERS,
    COMMON_ENV,
    ENGINE,
    Place,
    Target,
    build_ours,
    build_peer,
    build_serve_llm,
)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Somewhere to run."""
    return Place(port=1234, model=Path("/models/fast"), scratch=tmp_path)


@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)
def test_the_environment_is_the_same(build: Callable[[Place], Target], place: Place) -> None:
    """What slows or speeds the engine is set alike for all."""
    assert COMMON_ENV.items() <= build(place).env.items()


@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)
def test_the_config_is_where_the_command_looks(
    build: Callable[[Place], Target], place: Place
) -> None:
    """A server with a config file finds it at the path in its command, with the right port."""
    target = build(place)
    target.write_config()
    if target.config_path is not None:
        assert str(target.config_path) in target.command
        config = json.loads(target.config_path.read_text())
        assert config.get("http_options", {"port": 1234})["port"] == 1234


def test_the_peer_has_the_same_engine_arguments(place: Place) -> None:
    """The peer takes them as flags."""
    flags = " ".join(build_peer(place).command)
    for name, value in ENGINE.items():
        flag = f"--{name.replace('_', '-')}"
        assert (flag if value is True else f"{flag}={value}") in flags


def test_serve_llm_has_the_same_engine_arguments(place: Place) -> None:
    """Ray Serve LLM takes them as engine_kwargs."""
    config = build_serve_llm(place).config
    assert config is not None
    (llm_config,) = config["applications"][0]["args"]["llm_configs"]
    assert llm_config["engine_kwargs"] == ENGINE


def test_ours_is_a_valid_config(place: Place) -> None:
    """The generated config is one that the application accepts."""
    config = build_ours(place).config
    assert config is not None
    (tier,) = AppConfig.model_validate(config["applications"][0]["args"]).tiers
    assert tier.engine == ENGINE
    assert tier.max_ongoing_calls >= 64


def read_ours(target: Target) -> AppConfig:
    """The config of a target that is this service."""
    assert target.config is not None
    return AppConfig.model_validate(target.config["applications"][0]["args"])


def test_variants_of_ours(place: Place) -> None:
    """Leases that are not used again, two Routers, and a choice that always falls on one tier."""
    assert read_ours(BUILDERS["ours-new-leases"](place)).runtime.leases.reuse_s == 0
    assert read_ours(BUILDERS["ours-two-routers"](place)).router.replicas.min == 2
    auto = BUILDERS["ours-auto"](place)
    assert (auto.model, len(read_ours(auto).tiers)) == ("auto", 2)


def test_stages_are_noted_only_where_asked_for(place: Place) -> None:
    """The figures of a run without them hold for the default config."""
    assert read_ours(build_ours(place)).runtime.traces is None
    traces = read_ours(build_ours(replace(place, stages=True))).runtime.traces
    assert traces is not None
    assert (traces.sample_ratio, traces.errors) == (0, False)


@pytest.mark.parametrize("name", ["vllm-router", "litellm"])
def test_other_routers_stand_before_the_peers_server(name: str, place: Place) -> None:
    """Their engine is the same process as that of the peer, at a port of its own."""
    target = BUILDERS[name](replace(place, engine_port=4321))
    assert target.engine is not None
    assert target.engine.command == build_peer(replace(place, port=4321)).command
    assert target.requirement is not None
