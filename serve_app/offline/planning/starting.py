"""The two rates that `policy: llm` starts with if nothing has been measured.

The rates come from the same speeds as the rest of the plan. `serve-app measure-rates` measures the
real rates on a running replica.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from serve_app.offline.planning.roofline import Roofline, Workload


@dataclass(frozen=True)
class Rates:
    """The rates of one full replica."""

    prompt_tokens_per_s: float
    """Prompt tokens per second that the replica reads if it does nothing else."""
    output_tokens_per_s: float
    """Answer tokens per second that the replica writes with as many calls as it takes."""

    def calls_per_s(self, load: Workload) -> float:
        """Typical calls per second that the replica takes."""
        prompt_s = load.prompt_tokens / self.prompt_tokens_per_s
        return 1 / (prompt_s + load.output_tokens / self.output_tokens_per_s)

    def round_down(self) -> Rates:
        """The rates as a config holds them."""
        return Rates(round_down(self.prompt_tokens_per_s), round_down(self.output_tokens_per_s))


def estimate_rates(roofline: Roofline, load: Workload, calls: float) -> Rates:
    """Split the time of a typical call into the times of its prompt and its answer."""
    only_prompts = roofline.estimate(replace(load, output_tokens=0), calls).calls_per_s
    both = roofline.estimate(load, calls).calls_per_s
    return Rates(
        prompt_tokens_per_s=load.prompt_tokens * only_prompts,
        output_tokens_per_s=load.output_tokens / (1 / both - 1 / only_prompts),
    )


def round_down(value: float, digits: int = 2) -> float:
    """Round down to this many digits, because a rate that is too high leaves a tier short."""
    if value <= 0:
        return 0.0
    step = 10.0 ** (math.floor(math.log10(value)) - digits + 1)
    return round(math.floor(value / step + 1e-9) * step, 12)
