"""What a replica knows of its engine's death and of a drain, from vLLM and Ray."""

from __future__ import annotations

import inspect
from dataclasses import fields
from types import SimpleNamespace

import pytest
import ray
from ray.serve._private.config import DeploymentConfig
from ray.serve._private.replica import Replica, ReplicaActor
from ray.serve.context import ReplicaContext
from vllm.v1.engine.async_llm import AsyncLLM

from serve_app.replica.state import find_draining, is_dead, read_check_times


def test_an_engine_is_dead_when_vllm_says_so() -> None:
    """By the attribute that vLLM's own server goes by; a client without it is taken for alive."""
    assert isinstance(inspect.getattr_static(AsyncLLM, "errored"), property)
    assert is_dead(SimpleNamespace(errored=True))
    assert not is_dead(SimpleNamespace(errored=False))
    assert not is_dead(SimpleNamespace())
    assert not is_dead(None)


def test_ray_still_notes_a_drain_where_it_is_looked_for() -> None:
    """Private names of the pinned version; tests/serve/test_faults.py drains a real replica."""
    assert "self._shutting_down = True" in inspect.getsource(Replica._perform_graceful_shutdown)
    assert "self._replica_impl" in inspect.getsource(ReplicaActor)


def test_where_ray_tells_nothing_no_drain_is_seen(caplog: pytest.LogCaptureFixture) -> None:
    """Outside a replica, or with another version of Ray: the log says what is missing."""
    assert not find_draining()()
    assert "does not report whether it drains" in caplog.text
    assert not ray.is_initialized()


def test_rays_health_checks_are_known_where_a_replica_runs() -> None:
    """Private names of the pinned version; outside a replica no check is held."""
    assert read_check_times() == (0.0, 0.0)
    assert "_deployment_config" in {field.name for field in fields(ReplicaContext)}
    config = DeploymentConfig(health_check_period_s=7, health_check_timeout_s=21)
    assert (config.health_check_period_s, config.health_check_timeout_s) == (7, 21)
    set_context = inspect.getsource(Replica._set_internal_replica_context)
    assert "_deployment_config=self._deployment_config" in set_context
