"""Prompts made by code that hold the two ends of the scale: everyday talk, and demanding work.

Public outcomes of model pairs come from examinations. They hold none of the talk that most traffic
is made of, and little of the work. The labels of these prompts were not measured: that both models
get everyday talk right nearly always, and that the strong model is worth its price for work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

from serve_app.core.call import Prompt, Turn
from serve_app.offline.learning import demanding, everyday
from serve_app.offline.learning.records import LabelledCall

EVERYDAY_RIGHT = (0.95, 0.97)
DEMANDING_RIGHT = (0.55, 0.75)
"""P(right) of the fast and of the strong model: assumed."""

_TRIES = 20


def draw_anchors(count: int, seed: int = 0, tiers: int = 2) -> list[LabelledCall]:
    """So many different prompts of either kind, half of each Chinese; the same for a seed.

    With more than two tiers the chances of those between are assumed to rise evenly.
    """
    rng = Random(f"anchors {seed}")
    easy = _draw(rng, everyday.TEMPLATES, everyday.WORDS, count - count // 2)
    hard = _draw(rng, demanding.TEMPLATES, demanding.WORDS, count // 2)
    return [
        *(_label(text, EVERYDAY_RIGHT, "everyday", tiers) for text in easy),
        *(_label(text, DEMANDING_RIGHT, "demanding", tiers) for text in hard),
    ]


def _label(text: str, right: tuple[float, float], task: str, tiers: int) -> LabelledCall:
    fast, strong = right
    between = [fast + (strong - fast) * step / (tiers - 1) for step in range(1, tiers - 1)]
    prompt = Prompt(turns=(Turn("user", text),))
    return LabelledCall(prompt, fast, strong, task=task, between=tuple(between))


def _draw(
    rng: Random,
    templates: Mapping[str, Sequence[str]],
    words: Mapping[str, Mapping[str, Sequence[str]]],
    count: int,
) -> list[str]:
    drawn: dict[str, None] = {}
    languages = list(templates)
    for number in range(count * _TRIES):
        if len(drawn) == count:
            break
        language = languages[number % len(languages)]
        template = rng.choice(templates[language])
        chosen = {slot: rng.choice(fillers) for slot, fillers in words[language].items()}
        drawn[template.format_map(chosen)] = None
    return list(drawn)
