"""Replays calls to see what `routing.residency_weight` saves, and which calls it moves.

The score is moved and the share is held by the code that serves (`routing/`). Two assumptions stand
in for the engines. Each tier remembers every prompt that it has read, as if its caches never forgot
and each call found the replica that has most of it. And calls come one after another in the order
of their lines, so each call finds what the calls before it have left.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from serve_app.config.runtime import RoutingConfig
from serve_app.core.residence import Residence
from serve_app.routing.calibration import ScoredCall
from serve_app.routing.control import ShareController
from serve_app.routing.residency import weigh_switch


@dataclass(frozen=True, slots=True)
class Replay:
    """What became of the calls under one weight.

    `read_gpu_s` is what the tiers had to read, in seconds of GPUs. `moved_ratio` is the share of
    calls that the score alone would have sent to the other tier. `score` is the sum of the scores
    of the strong calls, divided by all calls. `quality` is the mean label of the answers.
    """

    weight: float
    strong_ratio: float
    read_gpu_s: float
    moved_ratio: float
    score: float
    quality: float | None


class ReadPrompts:
    """The prompts that one tier has read, and what reading costs there."""

    def __init__(self, gpu_s_per_token: float) -> None:
        self._gpu_s = gpu_s_per_token
        self._keys: set[int] = set()

    def residence(self, call: ScoredCall) -> Residence:
        """What the tier has of a prompt, in seconds of GPUs."""
        count = sum(1 for key in call.keys.keys if key in self._keys)
        cached = call.keys.tokens_at(count - 1, call.prompt_tokens) if count else 0
        return Residence(cached * self._gpu_s, (call.prompt_tokens - cached) * self._gpu_s)

    def read(self, call: ScoredCall) -> float:
        """Read a prompt. Returns the seconds of GPUs that it took."""
        read_s = self.residence(call).read_s
        self._keys.update(call.keys.keys)
        return read_s


def replay(
    calls: Sequence[ScoredCall],
    weight: float,
    *,
    strong_ratio: float,
    threshold: float,
    gpu_s: tuple[float, float],
) -> Replay:
    """Send the calls to their tiers; `gpu_s` are those for a token on the weak and strong tier.

    The threshold begins at `threshold` and holds `strong_ratio`.
    """
    config = RoutingConfig(strong_ratio_target=strong_ratio, strong_score_min=threshold)
    control = ShareController(config)
    weak, strong = (ReadPrompts(seconds) for seconds in gpu_s)
    read_gpu_s, moved, sent = 0.0, 0, list[bool]()
    for call in calls:
        score = weigh_switch(call.score, weight, strong.residence(call), weak.residence(call))
        is_strong = score >= control.threshold
        moved += is_strong != (call.score >= control.threshold)
        control.note(score)
        read_gpu_s += (strong if is_strong else weak).read(call)
        sent.append(is_strong)
    score = sum(call.score for call, strong in zip(calls, sent, strict=True) if strong)
    return Replay(
        weight,
        sum(sent) / len(calls),
        read_gpu_s,
        moved / len(calls),
        score / len(calls),
        _quality(calls, sent),
    )


def _quality(calls: Sequence[ScoredCall], sent: Iterable[bool]) -> float | None:
    labels = [
        call.large if is_strong else call.small for call, is_strong in zip(calls, sent, strict=True)
    ]
    known = [label for label in labels if label is not None]
    return sum(known) / len(known) if len(known) == len(calls) else None
