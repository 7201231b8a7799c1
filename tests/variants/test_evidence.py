"""The sequential test of a variant: its false alarms and its speed, by simulation."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.variants.evidence import RATIOS, Evidence, add_up

ALPHA = 0.01


def run_trial(
    seed: int, *, share: float, bad: tuple[float, float], calls: int, tolerated: float = 1.5
) -> int | None:
    """The number of the call at which the variant is convicted; None if it never is.

    `bad` holds the probabilities of a bad end at the incumbent and at the variant.
    """
    chance = random.Random(seed)
    evidence = Evidence()
    for call in range(1, calls + 1):
        on_variant = chance.random() < share
        if chance.random() < bad[on_variant]:
            evidence.note(on_variant=on_variant, share=share, tolerated=tolerated)
            if evidence.convicts(ALPHA):
                return call
    return None


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("bad", [(0.1, 0.1), (0.1, 0.15), (1.0, 1.0)])
def test_false_alarms_stay_below_their_bound(share: float, bad: tuple[float, float]) -> None:
    """400 trials of 2,000 calls each, looked at after every call; the bound is 1 %."""
    alarms = sum(
        run_trial(seed, share=share, bad=bad, calls=2000) is not None for seed in range(400)
    )
    # Of 400 trials with 1 % each, 11 or more alarms have a probability of 0.3 %.
    assert alarms <= 10


@pytest.mark.parametrize(
    ("share", "bad", "calls"),
    [
        (0.1, (0.0, 1.0), 120),
        (0.1, (0.01, 1.0), 120),
        (0.1, (0.01, 0.5), 250),
        (0.5, (0.0, 1.0), 40),
        (0.01, (0.001, 1.0), 900),
    ],
)
def test_a_broken_variant_is_found_soon(share: float, bad: tuple[float, float], calls: int) -> None:
    """Within so many calls of the tier, in at least 95 of 100 trials."""
    found = [run_trial(seed, share=share, bad=bad, calls=calls) for seed in range(100)]
    assert sum(call is not None for call in found) >= 95


def test_a_better_variant_is_never_convicted() -> None:
    """However many calls the incumbent ends badly."""
    assert all(run_trial(seed, share=0.1, bad=(0.2, 0.0), calls=2000) is None for seed in range(20))


@given(
    st.lists(st.tuples(st.booleans(), st.floats(0.001, 0.999)), max_size=60),
    st.floats(1, 5),
    st.integers(0, 60),
)
def test_routers_add_up_to_one(ends: list[tuple[bool, float]], tolerated: float, cut: int) -> None:
    """The evidence does not depend on which Router saw which call."""
    whole, parts = Evidence(), (Evidence(), Evidence())
    for index, (on_variant, share) in enumerate(ends):
        for evidence in (whole, parts[index < cut]):
            evidence.note(on_variant=on_variant, share=share, tolerated=tolerated)
    together = add_up(part.log_products for part in parts)
    assert together.log_products == pytest.approx(whole.log_products, abs=1e-6)
    assert len(together.log_products) == len(RATIOS)


@given(st.floats(0.001, 0.999), st.floats(1, 5), st.sampled_from(RATIOS))
def test_the_expected_product_is_at_most_one(share: float, tolerated: float, ratio: float) -> None:
    """At the edge of the hypothesis, and less within it: what makes it a supermartingale."""
    evidence = [Evidence(), Evidence()]
    for on_variant in (False, True):
        evidence[on_variant].note(on_variant=on_variant, share=share, tolerated=tolerated)
    edge = share * tolerated / (share * tolerated + 1 - share)
    for probability in (edge, edge / 2):
        expected = sum(
            chance * 2.718281828459045 ** evidence[on_variant].log_products[RATIOS.index(ratio)]
            for on_variant, chance in ((True, probability), (False, 1 - probability))
        )
        assert expected <= 1 + 1e-9


def test_no_router_is_no_evidence() -> None:
    """A trial that has just begun convicts nobody."""
    assert add_up([]).log_value == 0
    assert not Evidence().convicts(0.5)
