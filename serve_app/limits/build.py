"""Makes the limiter that a config asks for."""

from __future__ import annotations

from typing import Protocol

from serve_app.config.app import AppConfig
from serve_app.config.limits import LimitStoreConfig
from serve_app.config.reader import ConfigError
from serve_app.config.runtime import RuntimeConfig
from serve_app.limits.estimate import Estimator
from serve_app.limits.limit import Counters
from serve_app.limits.limiter import CallerLimiter
from serve_app.limits.rules import LimitRules
from serve_app.limits.windows import SECOND_MS

MARKER_EXTRA_S = 3600.0
"""How much longer than any call the note of its reservation is kept."""
NO_CURRENCY = ""


class RouterPlan(Protocol):
    """What a limiter must know of its Router; `replica` is the Router's id."""

    @property
    def app(self) -> AppConfig: ...

    @property
    def runtime(self) -> RuntimeConfig: ...

    @property
    def replica(self) -> str: ...


def needs(plan: RouterPlan) -> object:
    """The values that the limiter is made of, None for no limiter."""
    runtime = plan.runtime
    if not runtime.limits.limits_callers:
        return None
    limits = runtime.limits.model_copy(update={"calls_max": 1, "given_body_bytes_max": None})
    checkpoint_tokens = runtime.routing.cascade.checkpoint_tokens
    total_s = runtime.deadlines.total_s
    return (limits, runtime.prices, checkpoint_tokens, total_s, plan.app.tiers, plan.replica)


def build(plan: RouterPlan) -> CallerLimiter:
    """The limiter of a Router.

    Raises:
        ValueError: names the key that no limiter can be made of.
    """
    runtime, limits = plan.runtime, plan.runtime.limits
    assert limits.store is not None, "the config requires a store for rules"
    currency = NO_CURRENCY if runtime.prices is None else runtime.prices.currency
    estimator = Estimator(
        plan.app.tiers,
        runtime.prices,
        unbounded_output_tokens=limits.unbounded_output_tokens,
        checkpoint_tokens=runtime.routing.cascade.checkpoint_tokens,
    )
    return CallerLimiter(
        LimitRules(limits.rules, currency),
        estimator,
        _build_counters(limits.store, plan),
        plan.replica,
        open_on_failure=limits.on_failure == "open",
    )


def _build_counters(store: LimitStoreConfig, plan: RouterPlan) -> Counters:
    return _build_owned(store, plan) if store.redis is None else _build_redis(store, plan)


def _build_redis(store: LimitStoreConfig, plan: RouterPlan) -> Counters:
    try:
        # Only here, because a Router without Redis does not have the client.
        from serve_app.limits.redis_counters import RedisCounters, connect
    except ModuleNotFoundError:
        raise ValueError(
            "limits.store.redis: the Redis client is not installed here; "
            "pip install 'serve-app[redis]' brings it"
        ) from None
    assert store.redis is not None, "only a store in Redis comes here"
    try:
        redis = connect(store.redis, store.deadline_s)
    except ConfigError as error:
        raise ValueError(f"limits.store.redis.password: {error}") from None
    return RedisCounters(
        redis,
        deadline_s=store.deadline_s,
        marker_s=plan.runtime.deadlines.total_s + MARKER_EXTRA_S,
        place_s=plan.runtime.limits.reservation_s,
    )


def _build_owned(store: LimitStoreConfig, plan: RouterPlan) -> Counters:
    from serve_app.limits.owner_actor import RayOwnerPort
    from serve_app.limits.sliced_counters import SlicedCounters

    assert store.directory is not None, "the config requires a directory without Redis"
    place_ms = int(plan.runtime.limits.reservation_s * SECOND_MS)
    port = RayOwnerPort(store.directory, place_ms)
    return SlicedCounters(port, plan.replica, deadline_s=store.deadline_s)
