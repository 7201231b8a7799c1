"""Ways to run a tier side by side, and the cheapest that is fast enough."""

from __future__ import annotations

from collections.abc import Iterable

from serve_app.offline.planning.plan import TierPlan, Variant

TTFT_TARGET_S = 0.45
"""The TTFT of a prompt that does not wait, unless the command line sets another target.

MLPerf Inference 5.0 demands it of an interactive Llama 2 70B (mlcommons.org, April 2025: TTFT
450 ms).
"""


def find_cheapest(variants: Iterable[Variant], ttft_s: float) -> Variant | None:
    """The variant with the fewest GPU-hours, among the variants that start and meet the TTFT
    target."""
    fast = [variant for variant in variants if is_fast(variant, ttft_s)]
    return min(fast, key=lambda variant: variant.gpu_hours, default=None)


def is_fast(variant: Variant, ttft_s: float) -> bool:
    """Whether the variant can be started, and gives its first token in time."""
    return variant.speed is not None and variant.speed.ttft_s <= ttft_s


def tell_cheapest(plan: TierPlan, ttft_s: float) -> str:
    """The summary of a tier: the cheapest variant, and the cost of the config relative to it."""
    within = f"within a TTFT of {1000 * ttft_s:,.0f} ms"
    best = find_cheapest(plan.compared, ttft_s)
    if best is None:
        return f"{plan.tier}: none of these can be started {within}"
    text = (
        f"{plan.tier}: cheapest {within} is {best.scheme} on {best.parallel}: "
        f"{best.gpu_hours:.3g} GPU-hours for 1 M output tokens"
    )
    own = plan.variants[0]
    if own.cost is None:
        return text
    ratio = own.gpu_hours / best.gpu_hours
    return f"{text}\n  the config, {own.scheme} on {own.parallel}: {ratio:.2f} times as much"
