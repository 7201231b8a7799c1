"""Labelled calls whose outcome follows a rule."""

from __future__ import annotations

from random import Random

from serve_app.core.call import Prompt, Turn
from serve_app.offline.learning.records import LabelledCall, Records

_WORDS = [
    "river",
    "table",
    "music",
    "winter",
    "paper",
    "garden",
    "copper",
    "engine",
    "market",
    "letter",
]


def draw_records(count: int, seed: int = 0, noise: float = 0.1) -> Records:
    """Only the strong model knows about copper; both know about half of all the rest."""
    rng = Random(seed)
    items = []
    for _ in range(count):
        words = [rng.choice(_WORDS) + str(rng.randrange(100)) for _ in range(6)]
        copper = rng.random() < 0.4
        text = " ".join([*words, "copper" if copper else "silver", "please"])
        known = float(rng.random() < 0.5)
        fast, strong = (0.0, 1.0) if copper else (known, known)
        if rng.random() < noise:
            fast = 1.0 - fast
        items.append(LabelledCall(Prompt((Turn("user", text),)), fast, strong))
    return Records(items, f"{seed}" * 64)


def draw_metals(count: int, seed: int) -> list[LabelledCall]:
    """Of thirty metals only the strong model knows the odd ones, which takes many calls to learn;
    both models know half of the rest."""
    rng, items = Random(seed), []
    for number in range(count):
        metal = rng.randrange(30)
        words = " ".join(f"w{rng.randrange(500)}" for _ in range(6))
        prompt = Prompt((Turn("user", f"{words} metal{metal:02}x {number}"),))
        fast, strong = rng.random() < 0.5, rng.random() < 0.5
        items.append(LabelledCall(prompt, *((0.0, 1.0) if metal % 2 else (fast, strong))))
    return items
