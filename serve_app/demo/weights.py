"""Random weights whose text looks like shuffled words and practically never ends by itself.

One residual channel is the same for every token, and no layer reads or writes it. The output layer
multiplies it with each token's log frequency in the corpus: a bias, where Qwen3 has none. Tokens
that the corpus lacks (broken UTF-8, special tokens, the end of a turn) thus stay improbable.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Generator, Tensor

from serve_app.demo.architecture import VOCAB_SIZE, Architecture

_BIAS_CHANNEL = 0
_LOGIT_STD = 2.0
_UNSEEN_LOG_FREQUENCY = -12.0
# The residual's root mean square where it leaves the last layer, measured; the final norm divides
# the constant channel by it.
_RESIDUAL_RMS = 1.7
# Greedy decoding would else often settle on one digit or one space for ever, and JSON never close.
_REPEAT_PENALTY = 4.0
# Uniform attention would average the context away and make each token depend on the last alone.
_ATTENTION_SHARPNESS = 2.0
_BRANCH_GAIN = 1.5


def build_weights(architecture: Architecture, corpus_ids: Sequence[int]) -> dict[str, Tensor]:
    """Pure: the same tensors for the same arguments, bit for bit."""
    generator = Generator().manual_seed(architecture.seed)
    tensors = dict(_outer_tensors(architecture, log_frequencies(corpus_ids), generator))
    for layer in range(architecture.layers):
        for name, tensor in _layer_tensors(architecture, generator):
            tensors[f"model.layers.{layer}.{name}"] = tensor
    return {name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}


def log_frequencies(corpus_ids: Sequence[int]) -> Tensor:
    counts: Mapping[int, int] = Counter(corpus_ids)
    return torch.tensor(
        [math.log(counts[i]) if i in counts else _UNSEEN_LOG_FREQUENCY for i in range(VOCAB_SIZE)]
    )


def _outer_tensors(
    architecture: Architecture, bias: Tensor, generator: Generator
) -> Iterator[tuple[str, Tensor]]:
    size = architecture.hidden_size
    embedding = torch.randn(VOCAB_SIZE, size, generator=generator)
    embedding[:, _BIAS_CHANNEL] = 1.0
    yield "model.embed_tokens.weight", embedding
    head = _matrix(VOCAB_SIZE, size, generator, gain=_LOGIT_STD)
    head -= embedding * (_REPEAT_PENALTY * _RESIDUAL_RMS / size)
    head[:, _BIAS_CHANNEL] = bias * _RESIDUAL_RMS
    yield "lm_head.weight", head
    yield "model.norm.weight", torch.ones(size)


def _layer_tensors(
    architecture: Architecture, generator: Generator
) -> Iterator[tuple[str, Tensor]]:
    a = architecture
    query_size, key_value_size = a.attention_heads * a.head_dim, a.key_value_heads * a.head_dim
    branch_gain = _BRANCH_GAIN / math.sqrt(a.layers)
    for name, rows, columns in (
        ("self_attn.q_proj", query_size, a.hidden_size),
        ("self_attn.k_proj", key_value_size, a.hidden_size),
        ("self_attn.v_proj", key_value_size, a.hidden_size),
        ("mlp.gate_proj", a.intermediate_size, a.hidden_size),
        ("mlp.up_proj", a.intermediate_size, a.hidden_size),
    ):
        yield f"{name}.weight", _matrix(rows, columns, generator)
    for name, columns in (("self_attn.o_proj", query_size), ("mlp.down_proj", a.intermediate_size)):
        matrix = _matrix(a.hidden_size, columns, generator, gain=branch_gain)
        matrix[_BIAS_CHANNEL] = 0.0
        yield f"{name}.weight", matrix
    for name in ("input_layernorm", "post_attention_layernorm"):
        norm = torch.ones(a.hidden_size)
        norm[_BIAS_CHANNEL] = 0.0
        yield f"{name}.weight", norm
    yield "self_attn.q_norm.weight", torch.full((a.head_dim,), _ATTENTION_SHARPNESS)
    yield "self_attn.k_norm.weight", torch.ones(a.head_dim)


def _matrix(rows: int, columns: int, generator: Generator, gain: float = 1.0) -> Tensor:
    return torch.randn(rows, columns, generator=generator) * (gain / math.sqrt(columns))
