"""What one GPU of a replica holds: weights, what a step needs, and the KV cache in the rest."""

from __future__ import annotations

import math
from dataclasses import dataclass

from serve_app.planning.cards import GIB, Card
from serve_app.planning.engine import Engine, Parallel
from serve_app.planning.models import ModelFacts
from serve_app.planning.quantization import Scheme

NON_TORCH_BYTES = 0.5 * GIB
"""CUDA context, NCCL and the libraries' workspaces: 0.30 to 0.43 GiB in the logs of vLLM issues
10517, 15815 and 16570, at one, two and four GPUs."""

GRAPH_BYTES = 1.0 * GIB
"""CUDA graphs, which the pinned vLLM counts within `gpu_memory_utilization`: 0.36, 0.73 and 1.62
GiB in the logs of gpustack/runner 251 and vLLM 39559 (twice)."""

_PAD = 64
"""vLLM pads the vocabulary to a multiple of it (DEFAULT_VOCAB_PADDING_SIZE)."""


@dataclass(frozen=True)
class Stage:
    """The layers of one pipeline stage, and which ends of the model it has."""

    layers: int
    first: bool
    last: bool


def split_layers(layers: int, stages: int) -> list[Stage]:
    """Layers by stage, as vLLM's `get_pp_indices` divides them; no more stages than layers."""
    stages = min(stages, layers)
    parts = [layers // stages] * stages
    for index in range(2, layers % stages + 2):
        parts[-index] += 1
    return [Stage(n, i == 0, i == stages - 1) for i, n in enumerate(parts)]


@dataclass(frozen=True)
class Weights:
    """Elements of one GPU: those that the scheme packs, and those that stay as they are."""

    packed: float
    plain: float
    read_plain: float
    """Of the plain ones those that a decoding step reads: not the input embedding, of which it
    gathers a row a token."""
    experts: float
    """Of the packed ones those in experts, of which a step may read only some."""

    def bytes(self, scheme: Scheme, element_bytes: int) -> float:
        """All of it."""
        return self.packed_bytes(scheme, element_bytes) + self.plain * element_bytes

    def packed_bytes(self, scheme: Scheme, element_bytes: int, met: float = 1.0) -> float:
        """What the scheme packs, with a share of the experts."""
        experts = self.experts * met * weight_bytes(scheme, element_bytes)
        dense = self.packed - self.experts
        return experts + dense * weight_bytes(scheme, element_bytes, expert=False)


def weight_bytes(scheme: Scheme, element_bytes: int, *, expert: bool = True) -> float:
    """Bytes of one weight under a scheme; what is not quantised has the engine's `dtype`."""
    packed = scheme.bits < 16 and (expert or not scheme.experts_only)
    return scheme.bits / 8 if packed else float(element_bytes)


def weigh(facts: ModelFacts, parallel: Parallel, stage: Stage) -> Weights:
    """The elements that one GPU of a stage holds.

    Heads, MLP and vocabulary are divided; KV heads no further than to one a GPU; norms and router
    are on every GPU. Experts are divided over tensor and data parallel GPUs, whole ones with EP.
    """
    tensor = parallel.tensor
    heads = facts.heads / tensor
    kv_heads = kv_heads_of_gpu(facts, parallel)
    attention = 2 * facts.hidden * facts.head_dim * (heads + kv_heads)
    experts = facts.expert * _experts_of_gpu(facts, parallel)
    dense = 0.0 if facts.experts else 3 * facts.hidden * facts.intermediate / tensor
    bias = (heads + 2 * kv_heads) * facts.head_dim if facts.qkv_bias else 0.0
    norms = 2 * facts.hidden + (2 * facts.head_dim if facts.qk_norm else 0)
    small = bias + norms + facts.hidden * facts.experts
    vocabulary = padded_vocabulary(facts) / tensor * facts.hidden
    head = vocabulary + facts.hidden if stage.last else 0.0
    shared = facts.tied and stage.first and stage.last
    embedding = vocabulary if stage.first and not shared else 0.0
    return Weights(
        packed=stage.layers * (attention + experts + dense),
        plain=stage.layers * small + head + embedding,
        read_plain=stage.layers * small + head,
        experts=stage.layers * experts,
    )


def padded_vocabulary(facts: ModelFacts) -> int:
    """Rows of the embedding and of the head in vLLM."""
    return math.ceil(facts.vocabulary / _PAD) * _PAD


def kv_heads_of_gpu(facts: ModelFacts, parallel: Parallel) -> int:
    """KV heads on one GPU: with more GPUs than heads every GPU still has one, a copy."""
    return max(1, facts.kv_heads // parallel.tensor)


def _experts_of_gpu(facts: ModelFacts, parallel: Parallel) -> float:
    shards = parallel.tensor * parallel.data
    return math.ceil(facts.experts / shards) if parallel.expert else facts.experts / shards


def kv_bytes_a_token(facts: ModelFacts, engine: Engine, layers: int) -> int:
    """Keys and values of one token on one GPU with so many layers."""
    heads = kv_heads_of_gpu(facts, engine.parallel)
    return 2 * layers * heads * facts.head_dim * engine.cache_bytes


def activation_bytes(facts: ModelFacts, engine: Engine) -> float:
    """The peak of a step with `max_num_batched_tokens`, and of sampling for `max_num_seqs`.

    In the MLP: gate and up projection, their product, the residual and the output. With experts:
    the same for every active expert of a token, and each one's output. In the sampler: logits in
    32 bit, twice.
    """
    parallel, size = engine.parallel, engine.element_bytes
    if facts.experts:
        shards = 1 if parallel.expert else parallel.tensor * parallel.data
        width = facts.active_experts * (3 * facts.expert_intermediate / shards + facts.hidden)
    else:
        width = 3 * facts.intermediate / parallel.tensor
    step = engine.max_num_batched_tokens * (width + 2 * facts.hidden) * size
    return step + engine.max_num_seqs * facts.vocabulary * 2 * 4


@dataclass(frozen=True)
class Memory:
    """Bytes on the fullest GPU of a replica, and the tokens that all its GPUs can keep."""

    budget_bytes: float
    """What vLLM takes of the GPU: its memory times `gpu_memory_utilization`."""
    weights_bytes: float
    activation_bytes: float
    overhead_bytes: float
    kv_bytes: float
    """What is left for keys and values; below 0 where the rest does not fit."""
    kv_bytes_a_token: int
    """On one GPU, of a token."""
    kv_tokens: int
    """That one engine can keep; a replica with DP has as many engines."""
    max_model_len: int
    concurrency: float
    """Calls of `max_model_len` tokens at a time, of a replica."""

    @property
    def fits(self) -> bool:
        """vLLM starts if one call of `max_model_len` tokens fits."""
        return self.kv_bytes > 0 and self.kv_tokens >= self.max_model_len

    @property
    def missing_bytes(self) -> float:
        """How much more one GPU needed to hold one call of `max_model_len` tokens."""
        return max(0.0, self.max_model_len * self.kv_bytes_a_token - self.kv_bytes)


def measure(facts: ModelFacts, scheme: Scheme, engine: Engine, card: Card | None) -> Memory:
    """Fill the GPUs; without a card the tier is on CPU, whose cache has a size of its own."""
    stages = split_layers(facts.layers, engine.parallel.pipeline)
    weights = [
        weigh(facts, engine.parallel, stage).bytes(scheme, engine.element_bytes) for stage in stages
    ]
    a_token = [kv_bytes_a_token(facts, engine, stage.layers) for stage in stages]
    activation = activation_bytes(facts, engine) if card else 0.0
    overhead = NON_TORCH_BYTES + (0.0 if engine.eager else GRAPH_BYTES) if card else 0.0
    budget = card.memory_bytes * engine.gpu_memory_utilization if card else 0.0
    total = card.memory_bytes if card else math.inf
    rooms = []
    for held, cost in zip(weights, a_token, strict=True):
        taken = held + activation + overhead
        fixed = _fixed_room(engine, cost)
        # A size that is set counts whatever the utilisation, up to what the GPU has.
        rooms.append(budget - taken if fixed is None else min(fixed, total - taken))
    tokens = min(
        _whole_blocks(room / cost, engine) for room, cost in zip(rooms, a_token, strict=True)
    )
    length = _choose_length(facts, engine, tokens)
    worst = min(range(len(stages)), key=lambda i: rooms[i] / a_token[i])
    return Memory(
        budget_bytes=budget,
        weights_bytes=weights[worst],
        activation_bytes=activation,
        overhead_bytes=overhead,
        kv_bytes=rooms[worst],
        kv_bytes_a_token=a_token[worst],
        kv_tokens=tokens,
        max_model_len=length,
        concurrency=calls_of(tokens, length, engine),
    )


def _fixed_room(engine: Engine, cost: int) -> float | None:
    """The size of the cache where the config sets it."""
    if engine.num_gpu_blocks_override is not None:
        return float(engine.num_gpu_blocks_override * engine.block_tokens * cost)
    if engine.cpu_cache_bytes is not None:
        return engine.cpu_cache_bytes
    size = engine.kv_cache_memory_bytes
    return None if size is None else float(size)


def _whole_blocks(tokens: float, engine: Engine) -> int:
    return max(0, int(tokens // engine.block_tokens) * engine.block_tokens)


def _choose_length(facts: ModelFacts, engine: Engine, tokens: int) -> int:
    if engine.max_model_len == -1:
        return max(1, min(tokens, facts.positions))
    return engine.max_model_len or facts.positions


def calls_of(tokens: int, length: int, engine: Engine) -> float:
    """How many calls of a length a replica's cache can hold at a time; each takes whole blocks."""
    blocks = tokens // engine.block_tokens
    return engine.parallel.data * blocks / math.ceil(length / engine.block_tokens)
