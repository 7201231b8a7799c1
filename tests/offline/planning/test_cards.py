"""The shipped cards, and cards by description."""

from __future__ import annotations

import pytest

from serve_app.offline.planning.cards import load_cards, parse_card
from serve_app.offline.planning.errors import PlanningFailed


def test_every_card_is_complete() -> None:
    """Sources beside the numbers, and peaks that are in order."""
    cards = load_cards()
    names = ("A10", "L4", "L20", "A100-40G", "A100-80G", "H20", "H100", "H200", "B200")
    assert tuple(cards) == names
    for card in cards.values():
        assert card.source != "given"
        assert card.memory_source != "given"
        assert 0 < card.bf16_tflops < card.int8_tops
        assert card.fp8_tflops in (0, card.int8_tops)
        assert card.peak_flop_s("fp8") >= card.peak_flop_s("bf16")


def test_only_ada_and_later_compute_in_fp8() -> None:
    """Ampere takes the same rate as for 16 bit."""
    without = [name for name, card in load_cards().items() if not card.fp8_tflops]
    assert without == ["A10", "A100-40G", "A100-80G"]
    assert load_cards()["A10"].peak_flop_s("fp8") == 125e12


def test_a_card_by_name_or_with_other_numbers() -> None:
    """Case does not matter; a changed number says so in the source."""
    assert parse_card("h100") == load_cards()["H100"]
    card = parse_card("H100, memory_gib=93.1, bandwidth_gb_s=3900")
    assert (card.memory_gib, card.bandwidth_gb_s, card.bf16_tflops) == (93.1, 3900, 989)
    assert card.source.endswith("changed: memory_gib, bandwidth_gb_s")


def test_a_card_by_description() -> None:
    """Three numbers are enough; without more there is no FP8 and no NVLink."""
    card = parse_card("mine,memory_gib=44.4,bandwidth_gb_s=864,bf16_tflops=362")
    assert (card.name, card.fp8_tflops, card.has_nvlink) == ("mine", 0, False)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A100", "may be A100-40G or A100-80G"),
        ("RTX", "known are A10, L4"),
        ("", "known are A10"),
        ("mine,memory_gib=3", "bandwidth_gb_s and bf16_tflops missing"),
        (",memory_gib=3,bandwidth_gb_s=3,bf16_tflops=3", "a name missing"),
        ("H100,memory=3", "'memory=3' is no KEY=NUMBER"),
        ("H100,memory_gib=much", "is no KEY=NUMBER"),
        ("H100,memory_gib=nan", "is no KEY=NUMBER"),
        ("H100,memory_gib=-1", "is no KEY=NUMBER above 0"),
        ("H100,memory_gib", "is no KEY=NUMBER"),
        ("H100,source=3", "is no KEY=NUMBER"),
    ],
)
def test_a_card_that_cannot_be_used(text: str, words: str) -> None:
    """What is missing or wrong, and what there is."""
    with pytest.raises(PlanningFailed, match=words):
        parse_card(text)
