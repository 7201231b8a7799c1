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
    """Of one replica that is full."""

    prompt_tokens_per_s: float
    """Prompt tokens that it reads if it does nothing else."""
    output_tokens_per_s: float
    """Answer tokens that it writes with as many calls at a time as it takes."""

    def calls_per_s(self, load: Workload) -> float:
        """Typical calls that it takes in a second."""
        prompt_s = load.prompt_tokens / self.prompt_tokens_per_s
        return 1 / (prompt_s + load.output_tokens / self.output_tokens_per_s)

    def round_down(self) -> Rates:
        """As they go into a config."""
        return Rates(round_down(self.prompt_tokens_per_s), round_down(self.output_tokens_per_s))


def estimate_rates(roofline: Roofline, load: Workload, calls: float) -> Rates:
    """Split the time of a typical call into its prompt's and its answer's."""
    only_prompts = roofline.estimate(replace(load, output_tokens=0), calls).calls_per_s
    both = roofline.estimate(load, calls).calls_per_s
    return Rates(
        prompt_tokens_per_s=load.prompt_tokens * only_prompts,
        output_tokens_per_s=load.output_tokens / (1 / both - 1 / only_prompts),
    )


def round_down(value: float, digits: int = 2) -> float:
    """To so many digits, and never up: a rate that promises too much leaves a tier short."""
    if value <= 0:
        return 0.0
    step = 10.0 ** (math.floor(math.log10(value)) - digits + 1)
    return round(math.floor(value / step + 1e-9) * step, 12)
