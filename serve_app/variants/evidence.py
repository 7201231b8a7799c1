"""Whether a variant is worse than its incumbent: a test that may be looked at after every call.

Each call goes to the variant with a known probability `w`, whatever it asks. If the variant is at
most `r` times as likely as the incumbent to end a call badly, a call that ended badly was the
variant's with a probability of at most

    q0 = w r / (w r + 1 - w).

So only bad ends are counted, and load, time of day and the mix of prompts, which affect both alike,
cancel out. For an alternative ratio `R > r`, with `qR` in the same form, the product over the bad
ends of `qR/q0` (the variant's) or `(1-qR)/(1-q0)` (the incumbent's) is a supermartingale under that
hypothesis, and so is the mean of the products over several `R`. By Ville's inequality such a mean
exceeds `1/alpha` at any time with a probability of at most `alpha`. (Method of mixtures: Robbins,
"Statistical methods related to the law of the iterated logarithm", 1970; e-processes: Ramdas,
Grünwald, Vovk, Shafer, "Game-theoretic statistics and safe anytime-valid inference", 2023.)

The bound needs bad ends that do not depend on each other. `variants/trial.py` therefore counts the
bad ends of one key within a short time once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache

RATIOS = (1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0)
"""The alternatives, as multiples of the tolerated ratio."""


class Evidence:
    """The logarithms of the products, one for each alternative; several Routers' add up."""

    __slots__ = ("log_products",)

    def __init__(self, log_products: Sequence[float] = (0.0,) * len(RATIOS)) -> None:
        self.log_products = list(log_products)

    def note(self, *, on_variant: bool, share: float, tolerated: float) -> None:
        """A call has ended badly.

        Args:
            share: the probability with which the call went to the variant, above 0 and below 1.
            tolerated: how many times as often as the incumbent's the variant's calls may end badly.
        """
        steps = _steps(share, tolerated)[on_variant]
        self.log_products = [
            product + step for product, step in zip(self.log_products, steps, strict=True)
        ]

    @property
    def log_value(self) -> float:
        """The logarithm of the mean of the products: the test's e-value."""
        top = max(self.log_products)
        total = sum(math.exp(product - top) for product in self.log_products)
        return top + math.log(total / len(RATIOS))

    def convicts(self, false_alarm_ratio: float) -> bool:
        """Whether the variant is worse, with at most that probability of a false alarm, ever."""
        return self.log_value >= -math.log(false_alarm_ratio)


def add_up(parts: Iterable[Sequence[float]]) -> Evidence:
    """The evidence of several Routers together."""
    sums = [sum(products) for products in zip(*parts, strict=True)]
    return Evidence(sums) if sums else Evidence()


@lru_cache(maxsize=64)
def _steps(share: float, tolerated: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """What a bad end of the incumbent, and one of the variant, adds to each logarithm."""
    least = _probability(share, tolerated)
    most = [_probability(share, tolerated * ratio) for ratio in RATIOS]
    return (
        tuple(math.log((1 - probability) / (1 - least)) for probability in most),
        tuple(math.log(probability / least) for probability in most),
    )


def _probability(share: float, ratio: float) -> float:
    return share * ratio / (share * ratio + 1 - share)
