"""The cache as a config asks for it, and what it is made of."""

from __future__ import annotations

import pytest

from serve_app.cache.build import build, needs
from serve_app.cache.entry import StoredAnswer, dump_entry, parse_entry
from serve_app.cache.key import KeyMaker
from serve_app.cache.store import MemoryStore
from serve_app.config.app import AppConfig
from serve_app.config.cache import CacheConfig
from serve_app.config.cascade import CascadeConfig
from serve_app.config.runtime import RuntimeConfig
from serve_app.config.tiers import TierConfig
from serve_app.core.call import Call, Decision, Endpoint, Prompt, Reason, Route
from serve_app.gateway.wire import JsonPayload
from serve_app.steps import Plan

TIER = TierConfig(name="fast", model_id="demo-fast")


def make_plan(cache: CacheConfig, calls_max: int = 10) -> Plan:
    runtime = RuntimeConfig.model_validate({"cache": cache, "limits": {"calls_max": calls_max}})
    return Plan(AppConfig(tiers=(TIER,)), runtime, "r1")


async def test_a_change_elsewhere_in_the_config_keeps_the_answers() -> None:
    """A cache is made anew only where its own config changes."""
    assert needs(make_plan(CacheConfig())) == needs(make_plan(CacheConfig(), calls_max=20))
    assert needs(make_plan(CacheConfig())) != needs(make_plan(CacheConfig(ttl_s=1)))
    await build(make_plan(CacheConfig())).close()


@pytest.mark.parametrize(
    "config",
    [
        {"store": "redis"},
        {"redis": {"url": "redis://host:1"}},
        {"bytes_max": 2 << 20, "answer_bytes_max": 4 << 20},
        {"tttl_s": 1},
    ],
)
def test_a_wrong_config_is_refused(config: dict[str, object]) -> None:
    """No store without its section, no answer longer than the store, no unknown key."""
    with pytest.raises(ValueError):  # noqa: PT011  # pydantic's, of several keys
        CacheConfig.model_validate(config)


CALL = Call("r", Endpoint.CHAT, "auto", JsonPayload({"messages": []}), Prompt())
DECISION = Decision("fast", "demo-fast", Reason.SIMPLE)


def make_key(tier: TierConfig, route: Route, cascade: CascadeConfig | None = None) -> bytes:
    return KeyMaker([tier], cascade or CascadeConfig()).make(CALL, "acme", route)


@pytest.mark.parametrize(
    "change",
    [
        {"engine": {"dtype": "float16"}},
        {"model_source": "/models/other"},
        {"adapters": {"sql": "/adapters/sql"}},
    ],
)
def test_another_model_has_other_keys(change: dict[str, object]) -> None:
    """A new revision, source or engine argument makes the old answers unreachable."""
    other = TierConfig.model_validate({"name": "fast", "model_id": "demo-fast", **change})
    assert make_key(TIER, Route(DECISION)) != make_key(other, Route(DECISION))


def test_more_replicas_keep_the_keys() -> None:
    """What does not shape an answer does not part the keys."""
    other = TIER.model_copy(update={"max_ongoing_calls": TIER.max_ongoing_calls + 1})
    assert make_key(TIER, Route(DECISION)) == make_key(other, Route(DECISION))


def test_a_cascade_has_keys_of_its_own() -> None:
    """Its answer may be the draft, by its settings."""
    cascade = Route(DECISION, draft=DECISION)
    assert make_key(TIER, Route(DECISION)) != make_key(TIER, cascade)
    surer = CascadeConfig(confidence_min=0.99)
    assert make_key(TIER, cascade) != make_key(TIER, cascade, surer)


async def test_memory_is_bounded_in_bytes() -> None:
    """The answers that were not used for longest go, and never more than the bound stays."""
    store = MemoryStore(bytes_max=10_000, ttl_s=60)
    entries = {bytes([n]): StoredAnswer(DECISION, b"x", (bytes(2000),)) for n in range(10)}
    for key, entry in entries.items():
        store.put(key, entry)
        await store.get(b"\0")
    kept = [key for key in entries if await store.get(key) is not None]
    assert b"\0" in kept
    assert sum(entries[key].size for key in kept) <= 10_000
    store.put(b"long", StoredAnswer(DECISION, b"x", (bytes(20_000),)))
    assert await store.get(b"long") is None


def test_an_entry_survives_its_form() -> None:
    """What goes to a store comes back."""
    entry = StoredAnswer(
        Decision("strong", "模型", Reason.COMPLEX, 0.5, None), b"a/b", (b"x", b"", b"y")
    )
    parsed = parse_entry(dump_entry(entry))
    assert parsed == entry
