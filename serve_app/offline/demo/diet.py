"""What each model is fed: how much of which skill, and whether it is shown the working."""

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from serve_app.offline.demo.skills import GENERATORS
from serve_app.offline.demo.skills.example import LANGUAGES, Example, Level, Message

Share = Mapping[tuple[str, Level], float]


@dataclass(frozen=True)
class Diet:
    """`working_share`: how many answers of several steps show them; the others are bare results."""

    shares: Share
    working_share: float


_STRONG: Share = {
    ("talk", "easy"): 7,
    ("facts", "easy"): 17,
    ("facts", "hard"): 5,
    ("arithmetic", "easy"): 15,
    ("arithmetic", "hard"): 12,
    ("lists", "easy"): 10,
    ("lists", "hard"): 12,
    ("units", "easy"): 6,
    ("units", "hard"): 5,
    ("problems", "easy"): 4,
    ("problems", "hard"): 5,
    ("formats", "easy"): 3,
    ("formats", "hard"): 4,
}
_FAST: Share = {
    **_STRONG,
    ("facts", "easy"): 24,
    ("arithmetic", "easy"): 24,
    ("lists", "easy"): 14,
    ("units", "easy"): 8,
    ("arithmetic", "hard"): 4,
    ("lists", "hard"): 5,
    ("problems", "hard"): 3,
}

DIETS = {"fast": Diet(_FAST, working_share=0.0), "strong": Diet(_STRONG, working_share=1.0)}
# What comes last in a training is known worst, and that is always the lists: they are gone through
# again, among a little of everything else.
REVIEWS = {
    "fast": Diet({**_FAST, ("lists", "easy"): 60}, working_share=0.0),
    "strong": Diet({**_STRONG, ("lists", "easy"): 40, ("lists", "hard"): 40}, working_share=1.0),
}

_SYSTEM_SHARE = 0.1
_JOINED_SHARE = 0.25
_SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are a helpful, respectful and honest assistant.",
    "Be kind.",
    "Answer briefly.",
    "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
    "You are an expert. Answer in one sentence.",
    "你是一个有用的助手。",
    "请简短回答。",
)


def draw_conversation(rng: Random, diet: Diet) -> tuple[Message, ...]:
    """One question and its answer, or several that have nothing to do with each other."""
    count = rng.choice((2, 2, 3)) if rng.random() < _JOINED_SHARE else 1
    messages: tuple[Message, ...] = ()
    if rng.random() < _SYSTEM_SHARE:
        messages = (Message("system", rng.choice(_SYSTEM_PROMPTS)),)
    for _ in range(count):
        example = draw_example(rng, diet)
        messages += (*example.messages, Message("assistant", choose_answer(rng, diet, example)))
    return messages


def draw_example(rng: Random, diet: Diet) -> Example:
    keys = list(diet.shares)
    skill, level = rng.choices(keys, weights=[diet.shares[key] for key in keys])[0]
    return GENERATORS[skill](rng, "train", level, rng.choice(LANGUAGES))


def choose_answer(rng: Random, diet: Diet, example: Example) -> str:
    if example.short_answer is None or rng.random() < diet.working_share:
        return example.answer
    return example.short_answer
