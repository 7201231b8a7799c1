"""Measure a running server, bare or ours: streams in batches, and long prompts."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, replace
from http.client import HTTPConnection, HTTPException
from statistics import fmean, median
from typing import Any

import orjson

from serve_app.offline.bench.bench_errors import NothingMeasured, RequestsFailed, ServerNotReady
from serve_app.offline.bench.clocks import Clocks, read_clocks, subtract_clocks
from serve_app.offline.bench.generator import LoadGenerator
from serve_app.offline.bench.machine import count_cores
from serve_app.offline.bench.ownership import Owned
from serve_app.offline.bench.phase import Phase, Requests
from serve_app.offline.bench.summary import percentile
from serve_app.offline.bench.targets import HOST

_POLL_S = 0.5
_ANSWER_S = 300.0
_WORD_IDS = range(256, 2000)
"""Ids of ordinary tokens in any tokenizer of ours and of Qwen's."""
_PROMPT_REPEATS = 3


@dataclass(frozen=True, slots=True)
class Stream:
    """One server of one tier under a batch of streams."""

    server: str
    tier: str
    batch: int
    prompt_tokens: int
    output_tokens: int
    requests: int
    tokens_per_s: float
    ttft_p50_ms: float
    ttft_p99_ms: float
    step_p50_ms: float
    """Time from one token of a stream to its next, over the whole answer."""
    total_p99_ms: float
    elsewhere_ratio: float
    """The share of CPU time that neither the server nor the load generator took."""


@dataclass(frozen=True, slots=True)
class Prefill:
    """The time from a prompt to its first token, alone on the engine."""

    server: str
    tier: str
    prompt_tokens: int
    ms: float


@dataclass(frozen=True, slots=True)
class Server:
    """A running server, with its name and its address."""

    owned: Owned
    name: str
    port: int
    started_at: float
    """By the monotonic clock."""

    def wait_answers(self, model: str, wait_s: float) -> None:
        """Wait until a model answers; a health route may report ready too early.

        Raises:
            ServerEnded: the server has ended.
            ServerNotReady: the server did not answer in time.
        """
        deadline = time.monotonic() + wait_s
        body = {"model": model, "prompt": [min(_WORD_IDS)], "max_tokens": 1}
        while time.monotonic() < deadline:
            self.owned.check()
            if self._ask("/v1/completions", orjson.dumps(body)) is not None:
                return
            time.sleep(_POLL_S)
        raise ServerNotReady(f"{self.name} ({model})", wait_s, self.owned.log_tail())

    def stream(self, tier: str, phase: Phase, generator: LoadGenerator) -> Stream:
        """Drive one batch of streams.

        Raises:
            RequestsFailed: a request failed.
            NothingMeasured: no answer ended within the window.
        """
        phase = replace(phase, port=self.port)
        prompt_tokens = self._count_prompt(phase)

        def clocks() -> Clocks:
            return read_clocks([self.owned.pid], generator.pid)

        outcome, before, after = generator.run(phase, clocks)
        name = f"{self.name}, {tier}"
        if outcome.errors:
            raise RequestsFailed(name, phase.label, outcome.errors, self.owned.log_tail())
        if not outcome.total_s:
            raise NothingMeasured(name, phase.label, outcome.window_s)
        first_ms = [1000 * seconds for seconds in outcome.first_event_s]
        total_ms = [1000 * seconds for seconds in outcome.total_s]
        steps = max(1, phase.output_tokens - 1)
        return Stream(
            server=self.name,
            tier=tier,
            batch=phase.clients,
            prompt_tokens=prompt_tokens,
            output_tokens=phase.output_tokens,
            requests=len(total_ms),
            # Not by the answers in the window: equal streams end together, a whole batch at a time.
            tokens_per_s=1000 * phase.clients * phase.output_tokens / fmean(total_ms),
            ttft_p50_ms=percentile(first_ms, 0.5),
            ttft_p99_ms=percentile(first_ms, 0.99),
            step_p50_ms=median(
                (total - first) / steps for first, total in zip(first_ms, total_ms, strict=True)
            ),
            total_p99_ms=percentile(total_ms, 0.99),
            elsewhere_ratio=subtract_clocks(after, before).elsewhere_s
            / (outcome.window_s * count_cores()),
        )

    def prefill(self, tier: str, model: str, prompt_tokens: int) -> Prefill:
        """Time a prompt of this many random tokens, new ones each time; the first prompt warms up.

        Raises:
            RequestsFailed: the prompt was not answered.
        """
        times = []
        for _ in range(1 + _PROMPT_REPEATS):
            prompt = random.choices(_WORD_IDS, k=prompt_tokens)
            body = orjson.dumps({"model": model, "prompt": prompt, "max_tokens": 1})
            began = time.perf_counter()
            if self._ask("/v1/completions", body) is None:
                raise self._failed(f"{tier}: a prompt of {prompt_tokens} tokens")
            times.append(1000 * (time.perf_counter() - began))
        return Prefill(self.name, tier, prompt_tokens, median(times[1:]))

    def _count_prompt(self, phase: Phase) -> int:
        _, request = Requests(replace(phase, stream=False, output_tokens=1)).next()
        answer = self._ask("/v1/chat/completions", request.partition(b"\r\n\r\n")[2])
        if answer is None:
            raise self._failed(phase.label)
        return int(answer["usage"]["prompt_tokens"])

    def _failed(self, phase: str) -> RequestsFailed:
        return RequestsFailed(self.name, phase, {"no answer": 1}, self.owned.log_tail())

    def _ask(self, path: str, body: bytes) -> Any:
        """The answer as JSON, or None if there is no answer with status 200."""
        connection = HTTPConnection(HOST, self.port, timeout=_ANSWER_S)
        try:
            connection.request("POST", path, body, {"content-type": "application/json"})
            response = connection.getresponse()
            content = response.read()
            return orjson.loads(content) if response.status == 200 else None
        except (OSError, HTTPException):
            return None
        finally:
            connection.close()
