"""What a replica does once it has started."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from vllm import envs

from serve_app.core.heap import NEW_OBJECTS, settle_heap
from serve_app.replica.settle import cache_environment


@pytest.fixture
def thawed() -> Iterator[None]:
    """Afterwards collections visit everything again, as often as before."""
    threshold = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*threshold)


@pytest.mark.usefixtures("thawed")
def test_collections_do_not_visit_what_was_there_before() -> None:
    """Old objects are frozen; new ones are still collected."""
    before = len(gc.get_objects())
    settle_heap()
    assert gc.get_freeze_count() >= before / 2
    assert gc.get_threshold()[0] == NEW_OBJECTS
    assert len(gc.get_objects()) < before / 10
    ring: list[object] = []
    ring.append(ring)
    del ring
    assert gc.collect() >= 1


def test_vllm_reads_its_settings_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A later change of the environment is not seen; vLLM's own name for it has not changed."""
    monkeypatch.setenv("VLLM_HTTP_TIMEOUT_KEEP_ALIVE", "17")
    cache_environment(envs)
    try:
        monkeypatch.setenv("VLLM_HTTP_TIMEOUT_KEEP_ALIVE", "18")
        assert envs.VLLM_HTTP_TIMEOUT_KEEP_ALIVE == 17
    finally:
        envs.disable_envs_cache()
    assert envs.VLLM_HTTP_TIMEOUT_KEEP_ALIVE == 18


def test_a_vllm_without_such_a_cache_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    """A later version, or a simulation."""
    cache_environment(SimpleNamespace())
    assert "cannot keep its settings" in caplog.text
