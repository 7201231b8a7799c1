"""The shipped cards, and cards by description."""

from __future__ import annotations

import pytest

from serve_app.offline.planning.cards import (
    find_ray_cards,
    parse_card,
    read_card_table,
    read_generations,
)
from serve_app.offline.planning.planning_errors import PlanningFailed


def test_every_card_is_complete() -> None:
    """Sources beside the numbers, and peaks that are in order."""
    cards = read_card_table()
    assert " ".join(cards) == (
        "A10 A10G L4 L20 L40S A100-40G A100-80G H20 H100 H100-NVL H200 GH200 B200 B300"
    )
    for card in cards.values():
        assert card.source != "given"
        assert card.memory_source != "given"
        assert card.form
        assert bool(card.layer_us) == bool(card.layer_source)
        assert card.int8_tops == 0 or card.bf16_tflops < card.int8_tops
        assert card.fp8_tflops == 0 or card.bf16_tflops < card.fp8_tflops
        assert card.peak_flop_s("fp8") >= card.peak_flop_s("bf16")


def test_every_generation_says_where_it_is_known_from() -> None:
    """And where a source is lacking, its first word says so."""
    generations = read_generations()
    assert {card.generation for card in read_card_table().values()} | {"unknown"} == set(
        generations
    )
    lacking = [name for name, one in generations.items() if one.source.startswith("lacking")]
    assert lacking == ["Ada", "Blackwell"]
    assert read_card_table()["H100"].layer_s == generations["Hopper"].layer_us * 1e-6
    assert read_card_table()["H20"].layer_us == 120


def test_names_are_those_that_ray_gives() -> None:
    """From the name that nvidia-smi gives, by the pinned Ray's own function."""
    from ray._private.accelerators.nvidia_gpu import NvidiaGPUAcceleratorManager

    for card in read_card_table().values():
        assert card.nvidia_smi
        for name in card.nvidia_smi:
            assert NvidiaGPUAcceleratorManager._gpu_name_to_accelerator_type(name) == card.ray


@pytest.mark.parametrize("name", list(read_card_table()))
def test_which_names_ray_serve_llm_takes(name: str) -> None:
    """As the pinned Ray's own config says; A10 becomes A10G there, which no A10 is called."""
    from ray.serve.llm import LLMConfig

    card = read_card_table()[name]
    given = {"model_loading_config": {"model_id": "m"}, "accelerator_type": card.ray}
    try:
        taken = LLMConfig.model_validate(given).accelerator_type
    except ValueError as error:
        taken = str(error)
    assert (taken == card.ray) is card.takes_ray


def test_nvlink_joins_as_many_as_it_does() -> None:
    """Two H100 NVL have a bridge, four talk over PCIe; an H100 reaches all of its node."""
    bridge, whole = read_card_table()["H100-NVL"], read_card_table()["H100"]
    assert [bridge.has_nvlink(gpus) for gpus in (2, 4)] == [True, False]
    assert [bridge.peer_bytes_per_s(gpus) for gpus in (2, 4)] == [300e9, 32e9]
    assert whole.peer_bytes_per_s(8) == 450e9


def test_only_ada_and_later_compute_in_fp8() -> None:
    """Ampere takes the same rate as for 16 bit."""
    without = [name for name, card in read_card_table().items() if not card.fp8_tflops]
    assert without == ["A10", "A10G", "A100-40G", "A100-80G"]
    assert read_card_table()["A10"].peak_flop_s("fp8") == 125e12


def test_a_card_by_name_or_with_other_numbers() -> None:
    """Case does not matter; a changed number says so in the source."""
    assert parse_card("h100") == read_card_table()["H100"]
    card = parse_card("H100, memory_gib=93.1, bandwidth_gb_s=3900")
    assert (card.memory_gib, card.bandwidth_gb_s, card.bf16_tflops) == (93.1, 3900, 989)
    assert card.source.endswith("changed: memory_gib, bandwidth_gb_s")


def test_cards_by_the_name_that_ray_gives() -> None:
    """One name may be several cards, the smallest first."""
    assert [card.name for card in find_ray_cards("A100")] == ["A100-40G", "A100-80G"]
    assert [card.name for card in find_ray_cards("H100")] == ["H100", "H100-NVL"]
    assert find_ray_cards("A100-80G") == []


def test_a_card_by_description() -> None:
    """Three numbers are enough; without more there is no FP8 and no NVLink."""
    card = parse_card("mine,memory_gib=44.4,bandwidth_gb_s=864,bf16_tflops=362")
    assert (card.name, card.fp8_tflops, card.has_nvlink(2)) == ("mine", 0, False)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A100", "is ambiguous: A100-40G or A100-80G"),
        ("RTX", "known are A10, A10G, L4"),
        ("", "known are A10"),
        ("mine,memory_gib=3", "bandwidth_gb_s and bf16_tflops missing"),
        (",memory_gib=3,bandwidth_gb_s=3,bf16_tflops=3", "a name missing"),
        ("H100,memory=3", "'memory=3' is not a KEY=NUMBER"),
        ("H100,memory_gib=much", "is not a KEY=NUMBER"),
        ("H100,memory_gib=nan", "is not a KEY=NUMBER"),
        ("H100,memory_gib=-1", "is not a KEY=NUMBER above 0"),
        ("H100,memory_gib", "is not a KEY=NUMBER"),
        ("H100,source=3", "is not a KEY=NUMBER"),
    ],
)
def test_a_card_that_cannot_be_used(text: str, words: str) -> None:
    """What is missing or wrong, and what there is."""
    with pytest.raises(PlanningFailed, match=words):
        parse_card(text)
