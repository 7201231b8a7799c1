"""Metrics of a replica's prefix table: how much of the prompts was cached, and how well that was
foreseen. Ray Serve adds the labels of the deployment and of the replica."""

from __future__ import annotations

import asyncio

from ray.serve.metrics import Gauge

from serve_app.replica.prefills import PrefillWatch

FLUSH_S = 1.0


class PrefixMetrics:
    """Reads the counts about once a second."""

    def __init__(self, watch: PrefillWatch) -> None:
        self._watch = watch
        self._hits = Gauge(
            "serve_app_prefix_hit_ratio",
            "Share of the newest prompts' tokens that a replica had in its prefix cache.",
        )
        self._errors = Gauge(
            "serve_app_prefix_error_tokens",
            "Mean difference between the cached tokens of a prompt and what was foreseen.",
        )

    def flush(self) -> None:
        """Hand the values of the prompts since the last call to Ray; none, if there were none."""
        counts = self._watch.take_counts()
        if counts.prompts:
            self._hits.set(counts.cached_tokens / max(1, counts.prompt_tokens))
            self._errors.set(counts.error_tokens / counts.prompts)

    async def run(self) -> None:
        """Flush until the task is cancelled."""
        while True:
            await asyncio.sleep(FLUSH_S)
            self.flush()
