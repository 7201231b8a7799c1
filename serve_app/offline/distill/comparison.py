"""Two small models on the same questions: how often each is right, and what routing needs then.

For routing every question is scored as a Router scores it, and those with the highest scores go to
the strong model. `Calibration` counts the fewest strong calls that reach a quality.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from serve_app.config.bodies import BodiesConfig
from serve_app.core.call import Endpoint, Prompt
from serve_app.gateway.prompts import read_prompt
from serve_app.offline.distill.distill_errors import CannotCompare
from serve_app.offline.evaluate.answers import GradedAnswer
from serve_app.offline.evaluate.dataset import Dataset, Item
from serve_app.offline.evaluate.stats import Difference, compare
from serve_app.routing.calibration import Calibration, Choice, ScoredCall, Unattainable
from serve_app.routing.scorer import Scorer

QUALITY_RATIOS = (0.9, 0.95, 0.97, 0.99)

Marks = Mapping[str, bool]
"""Whether a model's answer is right, by question."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Right answers of the two models on the same questions."""

    group: str
    before: int
    after: int
    strong: int
    total: int
    difference: Difference


@dataclass(frozen=True, slots=True)
class StrongShare:
    """The fewest strong calls that reach a quality, with each of the two models as the small one.

    None: no share reaches it. `quality` is the share of right answers.
    """

    aim: str
    quality: float
    before: float | None
    after: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """What the training changed."""

    questions: int
    accuracies: Sequence[Accuracy]
    shares: Sequence[StrongShare]


def compare_models(
    dataset: Dataset,
    answers: Iterable[GradedAnswer],
    models: tuple[str, str, str],
    scorer: Scorer,
    strong_score_min: float,
) -> Comparison:
    """Compare the models named before, after and strong, on what all three have answered.

    Raises:
        CannotCompare: there is no such question.
    """
    marks = _read_marks(answers, models)
    items = [item for item in dataset.items if all(item.id in marks[name] for name in models)]
    if not items:
        raise CannotCompare(_explain(dataset, marks))
    before, after, strong = (marks[name] for name in models)
    accuracies = [
        _count(group, members, before, after, strong) for group, members in _groups(items)
    ]
    scores = [scorer.score(_prompt(item)) for item in items]
    shares = list(_shares(items, scores, (before, after, strong), strong_score_min))
    return Comparison(len(items), accuracies, shares)


def _read_marks(
    answers: Iterable[GradedAnswer], models: Sequence[str]
) -> Mapping[str, dict[str, bool]]:
    marks: dict[str, dict[str, bool]] = {name: {} for name in models}
    for answer in answers:
        if answer.model in marks and answer.right is not None:
            marks[answer.model][answer.id] = answer.right
    return marks


def _explain(dataset: Dataset, marks: Mapping[str, Marks]) -> str:
    found = ", ".join(f"'{name}': {len(known)}" for name, known in marks.items())
    return (
        f"No question of {dataset.name} has judged answers of all three models ({found}). Run "
        f"`serve-app evaluate` with --models {','.join(marks)} on this set."
    )


def _groups(items: Sequence[Item]) -> Iterator[tuple[str, Sequence[Item]]]:
    """All questions, then those of each tag."""
    yield "all", items
    pairs = sorted({pair for item in items for pair in item.tags.items()})
    for key, value in pairs:
        yield f"{key}: {value}", [item for item in items if item.tags.get(key) == value]


def _count(
    group: str, items: Sequence[Item], before: Marks, after: Marks, strong: Marks
) -> Accuracy:
    ours = [after[item.id] for item in items]
    theirs = [before[item.id] for item in items]
    best = sum(strong[item.id] for item in items)
    return Accuracy(group, sum(theirs), sum(ours), best, len(items), compare(ours, theirs))


def _shares(
    items: Sequence[Item],
    scores: Sequence[float],
    marks: tuple[Marks, Marks, Marks],
    strong_score_min: float,
) -> Iterator[StrongShare]:
    before, after = (_calibrate(items, scores, small, marks[2]) for small in marks[:2])
    now = _find_choice(before, sum(score >= strong_score_min for score in scores))
    quality = now.quality or 0.0
    yield StrongShare(
        f"as before at strong_score_min {strong_score_min:g}",
        quality,
        now.strong_ratio,
        _fewest(after, quality),
    )
    best = before.choices[-1].quality or 0.0
    for ratio in QUALITY_RATIOS:
        aim = f"{ratio:.0%} of the strong model's"
        fewest = (_fewest(model, ratio * best) for model in (before, after))
        yield StrongShare(aim, ratio * best, *fewest)
    small, distilled, strong = marks
    ideal = [
        sum(strong[item.id] and not model[item.id] for item in items) / len(items)
        for model in (small, distilled)
    ]
    either = sum(small[i.id] or strong[i.id] for i in items) / len(items)
    yield StrongShare("calls that only the strong model gets right", either, *ideal)


def _calibrate(
    items: Sequence[Item], scores: Sequence[float], small: Marks, strong: Marks
) -> Calibration:
    return Calibration(
        [
            ScoredCall(score, float(small[item.id]), float(strong[item.id]))
            for item, score in zip(items, scores, strict=True)
        ]
    )


def _find_choice(calibration: Calibration, strong: int) -> Choice:
    """The choice that a threshold makes which so many calls reach."""
    return min(
        calibration.choices, key=lambda one: abs(one.strong_ratio * calibration.calls - strong)
    )


def _fewest(calibration: Calibration, quality: float) -> float | None:
    best = calibration.choices[-1].quality or 0.0
    if best <= 0:
        return None
    try:
        # A hair less, because the ratio is multiplied again.
        return calibration.at_quality(quality / best - 1e-9).strong_ratio
    except Unattainable:
        return None


def _prompt(item: Item) -> Prompt:
    return read_prompt(Endpoint.CHAT, {"messages": list(item.messages)}, BodiesConfig())
