"""The memory of one GPU of a replica: weights, activations, and the KV cache in the rest."""

from __future__ import annotations

import math
from dataclasses import dataclass

from serve_app.offline.planning.cards import GIB, Card
from serve_app.offline.planning.engine import Engine, Parallel
from serve_app.offline.planning.models import LinearAttention, ModelFacts
from serve_app.offline.planning.quantization import Scheme

NON_TORCH_BYTES = 0.5 * GIB
"""CUDA context, NCCL and the libraries' workspaces: 0.30 to 0.43 GiB in the logs of vLLM issues
10517, 15815 and 16570, at one, two and four GPUs."""

GRAPH_BYTES = 1.0 * GIB
"""CUDA graphs, which the pinned vLLM counts within `gpu_memory_utilization`: 0.36, 0.73 and 1.62
GiB in the logs of gpustack/runner 251 and vLLM 39559 (twice)."""

STEPS_UNDER_WAY = 2
"""Steps whose tokens a window holds in addition: vLLM schedules one step ahead."""

STATES_A_CALL = 2
"""States that vLLM reserves for each linear layer with prefix caching: the last and the current
state."""

_PAD = 64
"""vLLM pads the vocabulary to a multiple of this number (DEFAULT_VOCAB_PADDING_SIZE)."""


@dataclass(frozen=True)
class Stage:
    """The layers of one pipeline stage, and which ends of the model it has."""

    layers: int
    first: bool
    last: bool


def split_layers(layers: int, stages: int) -> list[Stage]:
    """The stages with their layers, as vLLM's `get_pp_indices` divides them; at most one per
    layer."""
    stages = min(stages, layers)
    parts = [layers // stages] * stages
    for index in range(2, layers % stages + 2):
        parts[-index] += 1
    return [Stage(n, i == 0, i == stages - 1) for i, n in enumerate(parts)]


@dataclass(frozen=True)
class Weights:
    """The elements of one GPU: elements that the scheme packs, and elements that stay plain."""

    packed: float
    plain: float
    read_plain: float
    """Plain elements that a decoding step reads. Of the input embedding, a step reads only one row
    per token, so it does not count.
    """
    experts: float
    """Packed elements in experts, of which a step may read only some."""

    def bytes(self, scheme: Scheme, element_bytes: int) -> float:
        """All elements."""
        return self.packed_bytes(scheme, element_bytes) + self.plain * element_bytes

    def packed_bytes(self, scheme: Scheme, element_bytes: int, met: float = 1.0) -> float:
        """The packed elements, with a share of the experts."""
        experts = self.experts * met * weight_bytes(scheme, element_bytes)
        dense = self.packed - self.experts
        return experts + dense * weight_bytes(scheme, element_bytes, expert=False)


def weight_bytes(scheme: Scheme, element_bytes: int, *, expert: bool = True) -> float:
    """Bytes of one weight under a scheme; weights that are not quantised have the engine's
    `dtype`."""
    packed = scheme.bits < 16 and (expert or not scheme.experts_only)
    return scheme.bits / 8 if packed else float(element_bytes)


def weigh(facts: ModelFacts, parallel: Parallel, stage: Stage) -> Weights:
    """The elements that one GPU of a stage holds.

    Heads, MLP and vocabulary are divided; KV heads no further than to one a GPU; norms and router
    are on every GPU. Experts are divided over tensor and data parallel GPUs, whole ones with EP.
    """
    experts = _expert_elements(facts, parallel)
    dense = facts.shared if facts.experts else 3 * facts.hidden * facts.intermediate
    packed = _attention_elements(facts, parallel) + experts + dense / parallel.tensor
    vocabulary = padded_vocabulary(facts) / parallel.tensor * facts.hidden
    head = vocabulary + facts.hidden if stage.last else 0.0
    shared = facts.tied and stage.first and stage.last
    embedding = vocabulary if stage.first and not shared else 0.0
    tower = facts.vision / parallel.tensor if stage.first else 0.0
    small = stage.layers * _small_elements(facts, parallel)
    return Weights(
        packed=stage.layers * packed,
        plain=small + head + embedding + tower,
        read_plain=small + head,
        experts=stage.layers * experts,
    )


def _attention_elements(facts: ModelFacts, parallel: Parallel) -> float:
    """Elements of a layer's attention matrices on one GPU, averaged over the kinds of layers."""
    heads = facts.query_heads / parallel.tensor + kv_heads_of_gpu(facts, parallel)
    attention = 2 * facts.hidden * facts.head_dim * heads
    linear = facts.linear.matrices(facts.hidden) / parallel.tensor if facts.linear else 0.0
    return _mean(facts, attention, linear)


def _small_elements(facts: ModelFacts, parallel: Parallel) -> float:
    """Elements of a layer that no scheme packs, averaged over the kinds of layers."""
    tensor, kv_heads = parallel.tensor, kv_heads_of_gpu(facts, parallel)
    bias = (facts.heads / tensor + 2 * kv_heads) * facts.head_dim if facts.qkv_bias else 0.0
    sinks = facts.hidden + facts.heads / tensor if facts.biased else 0.0
    norms = 2 * facts.head_dim if facts.qk_norm else 0
    linear = facts.linear.small(facts.hidden) / tensor if facts.linear else 0.0
    experts = facts.experts * facts.expert_bias / tensor
    return _mean(facts, bias + sinks + norms, linear) + facts.routers + experts


def _mean(facts: ModelFacts, attended: float, linear: float) -> float:
    """The mean over all layers, some of which have linear attention."""
    share = facts.linear_layers / facts.layers
    return (1 - share) * attended + share * linear


def padded_vocabulary(facts: ModelFacts) -> int:
    """Rows of the embedding and of the head in vLLM."""
    return math.ceil(facts.vocabulary / _PAD) * _PAD


def kv_heads_of_gpu(facts: ModelFacts, parallel: Parallel) -> int:
    """KV heads on one GPU; with more GPUs than heads, every GPU has a copy of one head."""
    return max(1, facts.kv_heads // parallel.tensor)


def _expert_elements(facts: ModelFacts, parallel: Parallel) -> float:
    """Elements of all experts of a layer on one GPU, padded as vLLM pads them."""
    shards = parallel.tensor * parallel.data
    count = math.ceil(facts.experts / shards) if parallel.expert else facts.experts
    width = facts.expert_intermediate / (1 if parallel.expert else shards)
    pad = facts.expert_pad
    return 3 * count * _padded(facts.hidden, 2 * pad) * _padded(width, pad)


def _padded(size: float, multiple: int) -> float:
    return math.ceil(size / multiple) * multiple if multiple else size


def kv_bytes_a_token(facts: ModelFacts, engine: Engine, layers: int) -> int:
    """Bytes of one token's keys and values on one GPU, in this many layers that keep all tokens."""
    heads = kv_heads_of_gpu(facts, engine.parallel)
    full = layers * facts.full_layers // facts.layers
    return 2 * full * heads * facts.head_dim * engine.cache_bytes


@dataclass(frozen=True)
class CallCache:
    """The cache of one call on one GPU of a stage."""

    a_token: int
    """Bytes, in the layers that keep all tokens."""
    block_tokens: int
    windowed: int = 0
    """Bytes of a token, in the layers that keep a window."""
    window_tokens: int = 0
    """The most tokens in such a layer: the window, and the tokens of the current steps."""
    fixed: int = 0
    """Bytes of states, however long the call is."""

    def call_bytes(self, tokens: float) -> float:
        """Bytes of a call of this length in whole blocks, as vLLM counts them before it admits a
        call."""
        size = self.block_tokens
        whole = math.ceil(tokens / size) * size
        looked = math.ceil(min(tokens, self.window_tokens) / size) * size + size
        return whole * self.a_token + (looked * self.windowed if self.windowed else 0) + self.fixed

    def longest(self, room: float) -> int:
        """The most tokens of one call that fit into this many bytes."""
        low, high = 0, max(0, int(room // self.a_token))
        while low < high:
            middle = (low + high + 1) // 2
            fits = self.call_bytes(middle) <= room
            low, high = (middle, high) if fits else (low, middle - 1)
        return low


def cache_of_call(facts: ModelFacts, engine: Engine, layers: int) -> CallCache:
    """The cache of a call; states share pages with keys and values, whose blocks then grow."""
    a_token = kv_bytes_a_token(facts, engine, layers)
    if facts.linear is not None:
        return _cache_with_states(facts, facts.linear, engine, layers)
    if not facts.windowed_layers:
        return CallCache(a_token, engine.block_tokens)
    windowed = a_token * facts.windowed_layers // facts.full_layers
    tokens = facts.window - 1 + STEPS_UNDER_WAY * engine.max_num_batched_tokens
    return CallCache(a_token, engine.block_tokens, windowed, tokens)


def _cache_with_states(
    facts: ModelFacts, linear: LinearAttention, engine: Engine, layers: int
) -> CallCache:
    """A page of a layer holds a state, or a block of keys and values that is as large."""
    a_token = kv_bytes_a_token(facts, engine, layers)
    a_layer = kv_bytes_a_token(facts, engine, facts.layers) // facts.full_layers
    state = linear.state // engine.parallel.tensor * engine.element_bytes
    block = engine.block_tokens * math.ceil(state / (engine.block_tokens * a_layer))
    states = layers * facts.linear_layers // facts.layers * STATES_A_CALL
    return CallCache(a_token, block, fixed=states * block * a_layer)


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
        width += 3 * facts.shared_intermediate / parallel.tensor
    else:
        width = 3 * facts.intermediate / parallel.tensor
    step = engine.max_num_batched_tokens * (width + 2 * facts.hidden) * size
    return step + engine.max_num_seqs * facts.vocabulary * 2 * 4


def image_bytes(facts: ModelFacts, engine: Engine) -> float:
    """What vLLM keeps free for images on a GPU: the step of the largest image, and the cache.

    The cache holds as many tokens as a step, or those of the largest image if these are more
    (`compute_mm_encoder_budget` of the pinned vLLM).
    """
    tower, tokens = facts.tower, engine.image_tokens_max
    if tower is None or not tokens:
        return 0.0
    kept = max(engine.max_num_batched_tokens, tokens)
    step = tower.step_bytes(tokens, engine.parallel.tensor, engine.element_bytes)
    return step + tower.cache_bytes(kept, facts.hidden, engine.element_bytes)


@dataclass(frozen=True)
class Memory:
    """Bytes on the fullest GPU of a replica, and the tokens that all its GPUs can keep."""

    budget_bytes: float
    """The memory that vLLM takes: the GPU's memory times `gpu_memory_utilization`."""
    weights_bytes: float
    activation_bytes: float
    overhead_bytes: float
    kv_bytes: float
    """The memory left for keys and values; negative if the rest does not fit."""
    kv_bytes_a_token: int
    """Bytes of a token on one GPU, in the layers that keep all tokens."""
    kv_tokens: int
    """Tokens that one engine can keep in calls of `max_model_len`; a replica with DP has more
    engines."""
    longest_tokens: int
    """The longest context of a single call."""
    max_model_len: int
    concurrency: float
    """Concurrent calls of `max_model_len` tokens of a replica."""
    call: CallCache
    engines: int

    @property
    def fits(self) -> bool:
        """vLLM starts if one call of `max_model_len` tokens fits."""
        return self.kv_bytes > 0 and self.call_bytes <= self.kv_bytes

    @property
    def call_bytes(self) -> float:
        """Bytes of one call of `max_model_len` tokens."""
        return self.call.call_bytes(self.max_model_len)

    @property
    def missing_bytes(self) -> float:
        """Memory that one GPU lacks to hold one call of `max_model_len` tokens."""
        return max(0.0, self.call_bytes - self.kv_bytes)

    def calls(self, tokens: int) -> float:
        """How many calls of a length a replica's cache can hold; each takes whole blocks."""
        room = _whole_blocks(self.kv_bytes, self.call)
        return self.engines * room / self.call.call_bytes(tokens)


def measure(facts: ModelFacts, scheme: Scheme, engine: Engine, card: Card | None) -> Memory:
    """Fill the GPUs; without a card the tier is on CPU, whose cache has a size of its own."""
    stages = split_layers(facts.layers, engine.parallel.pipeline)
    caches = [cache_of_call(facts, engine, stage.layers) for stage in stages]
    weights = [
        weigh(facts, engine.parallel, stage).bytes(scheme, engine.element_bytes) for stage in stages
    ]
    activation = activation_bytes(facts, engine) + image_bytes(facts, engine) if card else 0.0
    overhead = NON_TORCH_BYTES + (0.0 if engine.eager else GRAPH_BYTES) if card else 0.0
    rooms = [
        _find_room(engine, card, call, held + activation + overhead)
        for held, call in zip(weights, caches, strict=True)
    ]
    worst = min(range(len(stages)), key=lambda i: rooms[i] / caches[i].a_token)
    call, room = caches[worst], _whole_blocks(rooms[worst], caches[worst])
    longest = call.longest(room)
    length = _choose_length(facts, engine, longest)
    concurrency = room / call.call_bytes(length)
    return Memory(
        budget_bytes=_budget(engine, card),
        weights_bytes=weights[worst],
        activation_bytes=activation,
        overhead_bytes=overhead,
        kv_bytes=rooms[worst],
        kv_bytes_a_token=call.a_token,
        kv_tokens=int(concurrency * length) if facts.hybrid else longest,
        longest_tokens=longest,
        max_model_len=length,
        concurrency=engine.parallel.data * concurrency,
        call=call,
        engines=engine.parallel.data,
    )


def _budget(engine: Engine, card: Card | None) -> float:
    return card.memory_bytes * engine.gpu_memory_utilization if card else 0.0


def _find_room(engine: Engine, card: Card | None, call: CallCache, taken: float) -> float:
    """The memory left for the cache; a configured size counts up to the memory of the GPU."""
    fixed, total = _fixed_room(engine, call), card.memory_bytes if card else math.inf
    return _budget(engine, card) - taken if fixed is None else min(fixed, total - taken)


def _fixed_room(engine: Engine, call: CallCache) -> float | None:
    """The size of the cache if the config sets it."""
    if engine.num_gpu_blocks_override is not None:
        return float(engine.num_gpu_blocks_override * call.block_tokens * call.a_token)
    if engine.cpu_cache_bytes is not None:
        return engine.cpu_cache_bytes
    size = engine.kv_cache_memory_bytes
    return None if size is None else float(size)


def _whole_blocks(room: float, call: CallCache) -> float:
    page = call.block_tokens * call.a_token
    return max(0.0, room // page * page)


def _choose_length(facts: ModelFacts, engine: Engine, tokens: int) -> int:
    if engine.max_model_len == -1:
        return max(1, min(tokens, facts.positions))
    return engine.max_model_len or facts.positions
