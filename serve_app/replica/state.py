"""The replica's knowledge of its engine's death, of a drain and of its deployment's settings, from
vLLM and Ray."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import ray._private.worker
import ray.serve.context

logger = logging.getLogger("ray.serve")


def is_dead(client: object) -> bool:
    """Whether the engine behind a client of vLLM has died: a dead engine answers no calls.

    vLLM notices within milliseconds when an engine core or a worker ends, or its output loop fails.
    """
    return bool(getattr(client, "errored", False))


def find_draining() -> Callable[[], bool]:
    """Find the flag that says whether Serve drains the replica of this process.

    Ray does not report a drain to user code before the last request has ended. Ray 2.60 has neither
    a hook nor a field of the replica's context for it, and one question per replica would load the
    controller. The actor itself knows, in private attributes.
    """
    actors = ray._private.worker.global_worker.actors.values()  # a process has one at most
    replica: Any = getattr(next(iter(actors), None), "_replica_impl", None)
    if not hasattr(replica, "_shutting_down"):
        logger.warning(
            "Ray's replica does not report whether it drains: Routers notice a drain late"
        )
        return bool
    return lambda: bool(replica._shutting_down)


def read_check_times() -> tuple[float, float]:
    """Period and timeout of Ray's health checks of this replica; zeros if they are unknown.

    The Serve config file may override the tier's config, also while the replica runs.
    """
    context = ray.serve.context._get_internal_replica_context()
    config = getattr(context, "_deployment_config", None)
    period_s = getattr(config, "health_check_period_s", 0.0)
    return period_s, getattr(config, "health_check_timeout_s", 0.0)
