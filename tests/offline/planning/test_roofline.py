"""Speeds follow from the rates of the card, and go the right way."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.offline.planning.cards import read_card_table
from serve_app.offline.planning.models import list_models
from serve_app.offline.planning.quantization import SCHEMES
from serve_app.offline.planning.roofline import Roofline, Workload
from tests.offline.planning.tiers import engine, facts

untimed = settings(deadline=None)  # the machine may be busy
models = st.sampled_from(list_models())
LOAD = Workload(1000, 200)
LAYER_S, H200_BYTES_PER_S = read_card_table()["H200"].layer_s, read_card_table()["H200"].bytes_per_s


def line(name: str, scheme: str = "bf16", card: str = "H100", **arguments: object) -> Roofline:
    return Roofline(
        facts(name), SCHEMES[scheme], engine(card, **arguments), read_card_table()[card]
    )


def test_one_step_by_hand() -> None:
    """Qwen2.5-7B on an H100: all weights but the input embedding, and the keys and values."""
    model = facts("Qwen2.5-7B")
    read = 2 * (model.parameters - model.embedding) + 1000 * 56 * 1024
    expected = read / (3350e9 * 0.84) + 28 * LAYER_S
    assert line("Qwen2.5-7B").step_s(1, 1000) == pytest.approx(expected)


def test_one_prompt_by_hand() -> None:
    """Two operations a weight and a token, and four a pair of tokens; at 0.6 of the peak."""
    model = facts("Qwen2.5-7B")
    matrices = 28 * (model.attention + 3 * model.hidden * model.intermediate)
    pairs = 4000 * 4000 / 2
    flop = 2 * matrices * 4000 + 4 * 28 * 28 * 128 * pairs
    expected = flop / (989e12 * 0.6) + 28 * LAYER_S
    assert line("Qwen2.5-7B").prefill_s(4000) == pytest.approx(expected)


@untimed
@given(models, st.integers(1, 500), st.integers(1, 500))
def test_more_calls_are_slower_each_and_faster_together(name: str, one: int, other: int) -> None:
    """Up to rounding."""
    few, many = sorted((one, other))
    roofline = line(name, "fp8", "B200")
    slow, fast = roofline.estimate(LOAD, few), roofline.estimate(LOAD, many)
    assert fast.call_tokens_per_s <= slow.call_tokens_per_s * (1 + 1e-9)
    assert fast.tokens_per_s >= slow.tokens_per_s * (1 - 1e-9)
    assert slow.ttft_s == fast.ttft_s
    assert slow.call_tokens_per_s * slow.calls == pytest.approx(slow.tokens_per_s)


@untimed
@given(models, st.integers(1, 100_000), st.integers(1, 100_000))
def test_longer_prompts_take_longer(name: str, one: int, other: int) -> None:
    """To the first token, and from one to the next."""
    short, long = sorted((one, other))
    roofline = line(name)
    assert roofline.prefill_s(short) <= roofline.prefill_s(long)
    assert roofline.step_s(1, short) <= roofline.step_s(1, long)


def test_quantised_weights_are_read_faster() -> None:
    """Reading is what one call waits for; prompts gain only where the card computes in the type."""
    bf16, fp8, awq = (line("Qwen2.5-72B", name, "H200") for name in ("bf16", "fp8", "awq-int4"))
    assert bf16.step_s(1, 100) > fp8.step_s(1, 100) > awq.step_s(1, 100)
    assert fp8.prefill_s(4000) < bf16.prefill_s(4000) == pytest.approx(awq.prefill_s(4000))
    old = line("Qwen2.5-7B", "fp8", "A100-80G")
    assert old.prefill_s(4000) == pytest.approx(line("Qwen2.5-7B", card="A100-80G").prefill_s(4000))


def test_a_call_alone_meets_few_experts() -> None:
    """And 256 calls nearly all of them: reading is then shared."""
    roofline = line("Qwen3-30B-A3B", "bf16", "H200")
    model = facts("Qwen3-30B-A3B")
    active = 2 * (model.active_parameters - model.embedding)
    read_s = roofline.step_s(1, 0.0) - 48 * LAYER_S
    assert read_s == pytest.approx(active / H200_BYTES_PER_S, rel=0.01)
    whole = 2 * (model.parameters - model.embedding) / H200_BYTES_PER_S
    assert roofline.step_s(512, 0.0) - 48 * LAYER_S == pytest.approx(whole, rel=0.01)


def test_more_gpus_are_faster_but_not_in_proportion() -> None:
    """What layers and all-reduces cost is not divided; over PCIe it costs more."""
    one, two = (line("Qwen2.5-7B", tensor_parallel_size=n).step_s(1, 100) for n in (1, 2))
    assert one / 2 < two < one
    card = read_card_table()["H100"]
    slow = replace(card, link="PCIe 5.0 x16", peer_gb_s=64.0)
    run = engine(tensor_parallel_size=2)
    pcie = Roofline(facts("Qwen2.5-7B"), SCHEMES["bf16"], run, slow)
    assert pcie.step_s(1, 100) > two


def test_stages_help_many_calls_and_not_one() -> None:
    """A token passes every stage, one after the other; other calls fill those in between."""
    one = line("Qwen2.5-72B", "fp8", "H200")
    four = line("Qwen2.5-72B", "fp8", "H200", pipeline_parallel_size=4)
    assert four.step_s(1, 100) == pytest.approx(one.step_s(1, 100))
    assert four.estimate(LOAD, 256).tokens_per_s > 2 * one.estimate(LOAD, 256).tokens_per_s


def test_data_parallel_engines_share_the_experts() -> None:
    """One token each of two engines meets nearly twice as many experts, of half as many a GPU."""
    one = line("Qwen3-30B-A3B", "bf16", "H200")
    two = line("Qwen3-30B-A3B", "bf16", "H200", data_parallel_size=2)
    assert 0.9 * one.step_s(1, 0) < two.step_s(1, 0) < one.step_s(1, 0)


def test_data_parallel_engines_share_the_calls() -> None:
    """Two engines with half of the calls each."""
    one = line("Qwen2.5-7B").estimate(LOAD, 32)
    two = line("Qwen2.5-7B", data_parallel_size=2).estimate(LOAD, 64)
    assert two.tokens_per_s == pytest.approx(2 * one.tokens_per_s)
    assert two.calls == 64
