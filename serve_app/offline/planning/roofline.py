"""The speed that a replica could reach: the card's rates, times the share that is reached.

The numbers are estimates, not measurements: docs/planning.md says how far they are from published
figures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from serve_app.offline.planning.cards import Card
from serve_app.offline.planning.engine import Engine
from serve_app.offline.planning.memory import Stage, kv_bytes_a_token, split_layers, weigh
from serve_app.offline.planning.models import ModelFacts
from serve_app.offline.planning.quantization import Scheme

COMPUTE_REACHED = 0.6
"""The share of the tensor cores' dense peak that reading a prompt reaches: a careful assumption.

The same tables imply 0.7, as a small difference of large numbers.
"""

BATCH_CALLS = 8
"""The calls of the row with more than one call: as many as in vLLM's own latency benchmark."""

NVLINK_HOP_S = 10e-6
PCIE_HOP_S = 30e-6
"""Seconds of an all-reduce apart from moving its bytes.

The value of NVLink was fitted with the constants of generations.toml to the rows of the A100 at TP
2 and 4. The value of PCIe is an assumption.
"""


@dataclass(frozen=True)
class Workload:
    """A typical call."""

    prompt_tokens: int = 1024
    output_tokens: int = 256

    @property
    def tokens(self) -> int:
        """Tokens that the call holds in the KV cache at its end."""
        return self.prompt_tokens + self.output_tokens


@dataclass(frozen=True)
class Speed:
    """The speed of one replica. TTFT is the time of a prompt that does not wait, in seconds."""

    ttft_s: float
    single_tokens_per_s: float
    """Tokens per second of a single call."""
    calls: float
    """The calls in flight for the numbers below."""
    call_tokens_per_s: float
    """Tokens per second of each of these calls."""
    tokens_per_s: float
    """Output tokens per second of the replica, including the time for prompts."""
    calls_per_s: float
    batch_tokens_per_s: float = 0.0
    """Output tokens per second of `BATCH_CALLS` calls together while they decode, without
    prompts."""


class Roofline:
    """One model under one scheme on one kind of GPU."""

    def __init__(self, facts: ModelFacts, scheme: Scheme, engine: Engine, card: Card) -> None:
        self._facts, self._scheme, self._engine, self._card = facts, scheme, engine, card
        self._stages = split_layers(facts.layers, engine.parallel.pipeline)

    def step_s(self, calls: float, context_tokens: float) -> float:
        """Seconds from one token of a call to its next, with this many calls on one engine.

        With pipeline stages, the calls form as many groups as there are stages, one group in each
        stage.
        """
        group = max(1.0, calls / len(self._stages))
        each = [self._stage_s(stage, group, context_tokens) for stage in self._stages]
        return max(each) * len(each) if calls > 1 else sum(each)

    def _stage_s(self, stage: Stage, calls: float, context_tokens: float) -> float:
        cache = calls * self._read_cache_bytes(stage, context_tokens)
        read_s = (self._read_bytes(stage, calls) + cache) / self._card.bytes_per_s
        head = weigh(self._facts, self._engine.parallel, stage).read_plain
        compute_s = calls * (self._token_flop(stage) / self._flop_s + 2 * head / self._bf16_flop_s)
        hops_s = 2 * stage.layers * self._all_reduce_s(calls)
        return max(read_s, compute_s) + stage.layers * self._card.layer_s + hops_s

    def prefill_s(self, prompt_tokens: int) -> float:
        """Seconds to read a prompt, in chunks of `max_num_batched_tokens`, which stages overlap."""
        chunks, stages = self._count_chunks(prompt_tokens), len(self._stages)
        each = [self._prefill_stage_s(stage, prompt_tokens) for stage in self._stages]
        return sum(each) * (chunks + stages - 1) / (chunks * stages)

    def _prefill_stage_s(self, stage: Stage, prompt_tokens: int) -> float:
        chunks = self._count_chunks(prompt_tokens)
        linear_s = prompt_tokens * self._token_flop(stage) / self._flop_s
        # Query with key and weight with value, two operations each, for half of all pairs.
        pairs = prompt_tokens * prompt_tokens / 2
        heads = self._facts.heads / self._engine.parallel.tensor
        layers = stage.layers * self._facts.full_layers / self._facts.layers
        attention_s = 4 * layers * heads * self._facts.head_dim * pairs / self._bf16_flop_s
        read_s = chunks * self._read_bytes(stage, prompt_tokens / chunks) / self._card.bytes_per_s
        hops_s = 2 * chunks * stage.layers * self._all_reduce_s(prompt_tokens / chunks)
        return (
            max(linear_s + attention_s, read_s)
            + chunks * stage.layers * self._card.layer_s
            + hops_s
        )

    def _count_chunks(self, prompt_tokens: int) -> int:
        return math.ceil(prompt_tokens / self._engine.max_num_batched_tokens)

    def estimate(self, load: Workload, calls: float) -> Speed:
        """Speeds at a number of calls in flight on the replica, evenly on its engines."""
        engines = self._engine.parallel.data
        context = load.prompt_tokens + load.output_tokens / 2
        prompt_s = max(self._prefill_stage_s(s, load.prompt_tokens) for s in self._stages)
        on_engine = max(1.0, calls / engines)
        step_s = self.step_s(on_engine, context)
        # Each call takes the busiest stage for its prompt, and for its share of the steps.
        busy_s = prompt_s + load.output_tokens * step_s / on_engine
        per_s = engines / busy_s
        return Speed(
            ttft_s=self.prefill_s(load.prompt_tokens),
            single_tokens_per_s=1 / self.step_s(1, context),
            batch_tokens_per_s=BATCH_CALLS / self.step_s(BATCH_CALLS / engines, context),
            calls=on_engine * engines,
            call_tokens_per_s=per_s * load.output_tokens / (on_engine * engines),
            tokens_per_s=per_s * load.output_tokens,
            calls_per_s=per_s,
        )

    def _read_cache_bytes(self, stage: Stage, context_tokens: float) -> float:
        """Bytes of one call's cache that a step reads; states are read and written."""
        facts, engine = self._facts, self._engine
        a_token = kv_bytes_a_token(facts, engine, stage.layers)
        windowed = a_token * facts.windowed_layers / facts.full_layers
        size = a_token * context_tokens + windowed * min(context_tokens, facts.window)
        if facts.linear is None:
            return size
        states = stage.layers * facts.linear_layers / facts.layers
        state = facts.linear.state / engine.parallel.tensor * engine.element_bytes
        return size + 2 * states * state

    def _read_bytes(self, stage: Stage, tokens: float) -> float:
        """Bytes that a step with this many tokens reads on one GPU; of the experts, only the
        selected ones."""
        facts, size = self._facts, self._engine.element_bytes
        weights = weigh(facts, self._engine.parallel, stage)
        met = 1.0
        if facts.experts:
            # The tokens of all data parallel engines meet in the same experts.
            tokens = max(1.0, tokens) * self._engine.parallel.data
            met = 1 - (1 - facts.active_experts / facts.experts) ** tokens
        return weights.packed_bytes(self._scheme, size, met) + weights.read_plain * size

    def _token_flop(self, stage: Stage) -> float:
        """Operations of one token in a stage on one GPU: two for each weight that the token
        uses."""
        facts, parallel = self._facts, self._engine.parallel
        weights = weigh(facts, parallel, stage)
        experts = stage.layers * facts.active_experts * facts.expert / parallel.tensor
        return 2 * (weights.packed - weights.experts + experts)

    def _all_reduce_s(self, tokens: float) -> float:
        """A sum over the tensor parallel GPUs of one hidden state a token."""
        tensor = self._engine.parallel.tensor
        if tensor == 1:
            return 0.0
        size = tokens * self._facts.hidden * self._engine.element_bytes
        hop_s = NVLINK_HOP_S if self._card.has_nvlink(tensor) else PCIE_HOP_S
        return hop_s + 2 * (tensor - 1) / tensor * size / self._card.peer_bytes_per_s(tensor)

    @property
    def _bf16_flop_s(self) -> float:
        return self._card.peak_flop_s("bf16") * COMPUTE_REACHED

    @property
    def _flop_s(self) -> float:
        return self._card.peak_flop_s(self._scheme.compute) * COMPUTE_REACHED
