"""What one GPU holds: divisions, limits, and that more of one thing is never less of another."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from serve_app.offline.planning.cards import GIB, read_card_table
from serve_app.offline.planning.checks import tensor_sizes
from serve_app.offline.planning.engine import Parallel
from serve_app.offline.planning.memory import (
    Stage,
    activation_bytes,
    cache_of_call,
    kv_bytes_a_token,
    measure,
    padded_vocabulary,
    split_layers,
    weigh,
)
from serve_app.offline.planning.models import list_models
from serve_app.offline.planning.quantization import SCHEMES, pad
from tests.offline.planning.tiers import engine, facts, fill

models = st.sampled_from(list_models())
cards = st.sampled_from(list(read_card_table()))
schemes = st.sampled_from([one.name for one in SCHEMES.values() if not one.experts_only])


@given(models, schemes, st.booleans())
def test_more_gpus_never_hold_more_each(name: str, scheme: str, expert: bool) -> None:
    """Neither weights, nor activations, nor keys and values, at any size that vLLM takes."""
    model = facts(name)
    sizes = tensor_sizes(model)
    held = []
    for size in sizes:
        run = engine(tensor_parallel_size=size, enable_expert_parallel=expert)
        stage = Stage(model.layers, first=True, last=True)
        weights = weigh(model, run.parallel, stage).bytes(SCHEMES[scheme], 2)
        cache = kv_bytes_a_token(model, run, model.layers)
        held.append((weights, activation_bytes(model, run), cache))
    for more, fewer in pairwise(held):
        assert all(a >= b for a, b in zip(more, fewer, strict=True))


@given(models, cards, schemes, schemes)
def test_fewer_bits_never_weigh_more(name: str, card: str, one: str, other: str) -> None:
    """And so never leave less for keys and values."""
    few, many = sorted((SCHEMES[one], SCHEMES[other]), key=lambda scheme: scheme.bits)
    small, large = fill(name, few.name, card), fill(name, many.name, card)
    assert small.weights_bytes <= large.weights_bytes
    assert small.kv_tokens >= large.kv_tokens


@given(models, cards, st.integers(1, 200_000), st.integers(1, 200_000))
def test_longer_calls_are_fewer(name: str, card: str, one: int, other: int) -> None:
    """The cache holds the same tokens, whatever the longest call; what fits longer fits shorter."""
    short, long = sorted((one, other))
    few = fill(name, "fp8", card, max_model_len=long)
    many = fill(name, "fp8", card, max_model_len=short)
    assert few.longest_tokens == many.longest_tokens
    assert few.concurrency <= many.concurrency
    assert few.fits <= many.fits
    assert few.missing_bytes >= many.missing_bytes


@given(models, st.integers(1, 8))
def test_stages_share_the_whole(name: str, stages: int) -> None:
    """Every layer is in one stage; a tied head is there twice where the ends are apart. vLLM adds
    rows to a vocabulary."""
    model = facts(name)
    parts = split_layers(model.layers, stages)
    weights = [weigh(model, Parallel(pipeline=stages), part) for part in parts]
    total = sum(part.packed + part.plain for part in weights)
    twice = model.embedding if model.tied and stages > 1 else 0
    assert sum(part.layers for part in parts) == model.layers
    matrices = 1 if model.tied and stages == 1 else 2
    rows = padded_vocabulary(model) - model.vocabulary
    assert total == model.parameters + twice + matrices * rows * model.hidden


@pytest.mark.parametrize(
    ("layers", "stages", "expected"),
    [(80, 4, [20, 20, 20, 20]), (28, 3, [9, 10, 9]), (94, 4, [23, 24, 24, 23]), (5, 2, [3, 2])],
)
def test_layers_go_where_vllm_puts_them(layers: int, stages: int, expected: list[int]) -> None:
    """The last stage, which has the head, gets none of the rest."""
    assert [stage.layers for stage in split_layers(layers, stages)] == expected


def test_the_split_is_vllms() -> None:
    """Layer by layer, as its own function says."""
    from vllm.distributed.utils import get_pp_indices

    for layers in range(1, 40):
        for stages in range(1, min(layers, 8) + 1):
            theirs = [get_pp_indices(layers, rank, stages) for rank in range(stages)]
            ours = [stage.layers for stage in split_layers(layers, stages)]
            assert ours == [end - begin for begin, end in theirs]


def test_kv_heads_are_copied_beyond_their_number() -> None:
    """Four KV heads on eight GPUs: as much on each as on four."""
    four, eight = (
        fill("Qwen3-235B-A22B", "fp8", "H200", tensor_parallel_size=size) for size in (4, 8)
    )
    assert four.kv_bytes_a_token == eight.kv_bytes_a_token == 2 * 94 * 1 * 128 * 2


def test_an_fp8_cache_is_half() -> None:
    """Twice the tokens in the same room, but for whole blocks."""
    half, full = fill("Qwen3-8B", kv_cache_dtype="fp8"), fill("Qwen3-8B")
    assert half.kv_bytes_a_token * 2 == full.kv_bytes_a_token
    assert 0 <= half.kv_tokens - 2 * full.kv_tokens < 32


def test_experts_are_spread_over_data_parallel_gpus() -> None:
    """Attention is there in every engine, an expert only once."""
    one = fill("Qwen3-235B-A22B", "fp8", "H200", tensor_parallel_size=4)
    two = fill("Qwen3-235B-A22B", "fp8", "H200", tensor_parallel_size=4, data_parallel_size=2)
    experts = facts("Qwen3-235B-A22B").expert * 128 * 94 / 4
    assert one.weights_bytes - two.weights_bytes == pytest.approx(experts / 2)


def test_whole_experts_are_rounded_up() -> None:
    """128 experts over 3 x 2 GPUs: 22 on the fullest."""
    model = facts("Qwen3-30B-A3B")
    parallel = Parallel(tensor=2, data=3, expert=True)
    assert weigh(model, parallel, Stage(1, first=False, last=False)).experts == 22 * model.expert


def test_the_fullest_stage_decides() -> None:
    """Three stages of 9, 10 and 9 layers: the tokens are those of the fullest."""
    memory = fill("Qwen2.5-7B", card="L4", pipeline_parallel_size=3)
    stages = {n: 2 * n * 4 * 128 * 2 for n in (9, 10)}
    assert memory.kv_bytes_a_token == stages[10]
    assert memory.kv_tokens == memory.kv_bytes // stages[10] // 16 * 16


def test_a_window_bounds_what_a_call_keeps() -> None:
    """gpt-oss: half of the layers keep 128 tokens and those of steps under way, as vLLM counts."""
    from vllm.v1.kv_cache_interface import SlidingWindowSpec

    run = engine(max_num_batched_tokens=2048)
    call = cache_of_call(facts("gpt-oss-120b"), run, 36)
    spec = SlidingWindowSpec(
        block_size=16, num_kv_heads=8, head_size=64, dtype=torch.bfloat16, sliding_window=128
    )
    for tokens in (100, 4000, 100_000):
        theirs = spec.max_admission_blocks_per_request(
            max_in_flight_tokens=2 * 2048, max_model_len=tokens
        )
        full = -(-tokens // 16) * spec.page_size_bytes
        assert call.call_bytes(tokens) == 18 * (full + theirs * spec.page_size_bytes)
    long = fill("gpt-oss-120b", "mxfp4-experts", tensor_parallel_size=2)
    assert long.kv_tokens == int(long.concurrency * 131072)
    assert long.longest_tokens > long.kv_tokens / 2


@pytest.mark.parametrize("tensor", [1, 2, 4])
def test_a_state_is_as_large_as_vllms(tensor: int) -> None:
    """Qwen3-Next: elements by vLLM's shapes, and blocks of keys and values that hold as much."""
    from vllm.model_executor.layers.mamba.mamba_utils import MambaStateShapeCalculator

    model = facts("Qwen3-Next-80B-A3B")
    assert model.linear is not None
    shapes = MambaStateShapeCalculator.gated_delta_net_state_shape(tensor, 16, 32, 128, 128, 4)
    elements = sum(math.prod(shape) for shape in shapes)
    assert model.linear.state // tensor == elements
    call = cache_of_call(model, engine(tensor_parallel_size=tensor), 48)
    page = call.block_tokens * call.a_token // 12
    assert 0 <= page - 2 * elements < 16 * call.a_token // 12
    assert call.fixed == 36 * 2 * page
    assert tensor > 1 or call.block_tokens == 544


def test_a_hybrid_keeps_far_less() -> None:
    """A long call of Qwen3-Next takes a quarter of what keys and values in all layers would."""
    model = facts("Qwen3-Next-80B-A3B")
    call = cache_of_call(model, engine(), 48)
    assert call.a_token == kv_bytes_a_token(replace(model, linear_layers=0), engine(), 48) / 4
    assert call.call_bytes(262144) < 1.02 * 262144 * call.a_token


def test_experts_of_gpt_oss_are_padded() -> None:
    """2,880 columns over one to eight GPUs become multiples of 128, and rows of 256."""
    model = pad(facts("gpt-oss-120b"), SCHEMES["mxfp4-experts"])
    stage = Stage(1, first=False, last=False)
    widths = {1: 2944, 2: 1536, 4: 768, 8: 384}
    for tensor, width in widths.items():
        assert weigh(model, Parallel(tensor), stage).experts == 3 * 128 * 3072 * width


def test_a_fixed_cache_is_not_more_than_there_is() -> None:
    """What the config sets counts beyond the utilisation, up to the card's memory."""
    small = fill("Qwen2.5-7B", kv_cache_memory_bytes=8 * GIB)
    assert small.kv_bytes == 8 * GIB
    huge = fill("Qwen2.5-7B", kv_cache_memory_bytes=800 * GIB)
    assert huge.kv_bytes < read_card_table()["H100"].memory_bytes
    blocks = fill("Qwen2.5-7B", num_gpu_blocks_override=100)
    assert blocks.kv_tokens == 1600


def test_the_longest_context_may_be_left_to_vllm() -> None:
    """-1: as long as fits, and no longer than the model's positions; none: the positions."""
    assert fill("Qwen2.5-7B", card="H100", max_model_len=-1).max_model_len == 32768
    tight = fill("Qwen2.5-32B", card="H100", max_model_len=-1)
    assert tight.max_model_len == tight.kv_tokens < 32768
    assert tight.fits
    assert fill("Qwen3-8B").max_model_len == 40960


def test_without_room_nothing_fits() -> None:
    """Weights larger than the card leave less than nothing, and no tokens."""
    memory = fill("Qwen2.5-72B", card="L4")
    assert memory.kv_bytes < 0
    assert (memory.kv_tokens, memory.fits) == (0, False)


def test_a_tier_on_cpu_has_a_cache_of_its_own() -> None:
    """No card: no budget, and no activations beside it."""
    run = replace(engine(), cpu_cache_bytes=float(GIB), block_tokens=128)
    memory = measure(facts("Qwen3-0.6B"), SCHEMES["bf16"], run, None)
    assert memory.kv_bytes == GIB
    assert memory.kv_tokens == GIB // memory.kv_bytes_a_token // 128 * 128
    assert (memory.activation_bytes, memory.overhead_bytes) == (0, 0)
