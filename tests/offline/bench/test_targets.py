"""The servers that are compared get the same engine."""

from __future__ import annotations

import json
from collections.abc import Callable
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
        assert json.loads(target.config_path.read_text())["http_options"]["port"] == 1234


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


def test_leases_of_ours_can_be_set(place: Place) -> None:
    """To see what a call costs whose lease is not used again."""
    config = build_ours(place, {"reuse_s": 0.0}).config
    assert config is not None
    args = config["applications"][0]["args"]
    assert AppConfig.model_validate(args).runtime.leases.reuse_s == 0
