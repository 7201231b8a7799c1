"""What a replica does once, when its engine has started: each call costs less from then on.

vLLM's own server does the first of these when it opens its port, and its engine processes do both.
ray.serve.llm does neither in the process that answers calls.
"""

from __future__ import annotations

import gc
import logging
import time
from typing import Any

from vllm import envs

from serve_app.core.heap import settle_heap

logger = logging.getLogger("ray.serve")


def settle() -> None:
    """Keep what has been loaded out of garbage collections, and the environment in memory."""
    started = time.monotonic()
    settle_heap()
    cache_environment(envs)
    duration_s = time.monotonic() - started
    logger.info("%d objects frozen after %.1f s", gc.get_freeze_count(), duration_s)


def cache_environment(envs: Any) -> None:
    """Let vLLM read its settings once: it reads the environment anew for each call and step."""
    enable = getattr(envs, "enable_envs_cache", None)
    if enable is None:
        logger.warning("vLLM cannot keep its settings in memory, so each call costs a little more")
        return
    enable()
