"""Summarise single answers for each model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from serve_app.offline.evaluate.answers import GradedAnswer, Settings
from serve_app.offline.evaluate.dataset import Dataset, Item
from serve_app.offline.evaluate.stats import (
    Difference,
    Interval,
    compare,
    find_hull,
    percentile,
    read_hull,
    wilson,
)

Marks = Mapping[str, GradedAnswer]
"""The judged answers of one model by question."""


@dataclass(frozen=True, slots=True)
class Share:
    """A count and its total."""

    right: int
    total: int
    ratio: float
    interval: Interval


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """One model on the whole data set.

    `accuracy` is over the questions that it answered; `errors` counts the others. `difference` is
    to the strong model, on the questions that both answered. `random_mix_ratio` is what choosing at
    random would get right at the same share of strong calls. `cost` is the mean price of its
    answers, and `same_cost_ratio` what the best mixture of single tiers gets right at that cost.
    """

    model: str
    accuracy: Share | None
    difference: Difference | None
    strong_ratio: float | None
    random_mix_ratio: float | None
    ttft_p50_s: float | None
    ttft_p95_s: float | None
    total_p50_s: float | None
    total_p95_s: float | None
    errors: int
    cost: float | None = None
    same_cost_ratio: float | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """An evaluation. `tags` holds the accuracy by key, value and model of the tags."""

    dataset: str
    questions: int
    strong: str
    settings: Settings
    models: Sequence[ModelSummary]
    tags: Mapping[str, Mapping[str, Mapping[str, Share]]]

    @property
    def errors(self) -> int:
        """The number of calls without an answer that could be judged."""
        return sum(model.errors for model in self.models)


def summarize(
    dataset: Dataset,
    models: Sequence[str],
    strong: str,
    settings: Settings,
    answers: Iterable[GradedAnswer],
    prices: Mapping[str, float] | None = None,
) -> Summary:
    """Summarise the answers; the other models are compared with the model `strong`. `prices` are
    those of an answer by tier."""
    asked = {item.id for item in dataset.items}
    judged: dict[str, dict[str, GradedAnswer]] = {model: {} for model in models}
    for answer in answers:
        if answer.model in judged and answer.id in asked and answer.right is not None:
            judged[answer.model][answer.id] = answer
    return Summary(
        dataset=dataset.name,
        questions=len(dataset.items),
        strong=strong,
        settings=settings,
        models=_price_models(
            _summarize_models(judged, strong, len(dataset.items)), judged, prices or {}
        ),
        tags=_summarize_tags(dataset.items, judged),
    )


def count_right(answers: Iterable[GradedAnswer]) -> Share | None:
    """The accuracy of judged answers, or None if there are none."""
    marks = [answer.right is True for answer in answers]
    if not marks:
        return None
    right = sum(marks)
    return Share(right, len(marks), right / len(marks), wilson(right, len(marks)))


def _summarize_models(
    judged: Mapping[str, Marks], strong: str, questions: int
) -> Sequence[ModelSummary]:
    strong_marks = judged.get(strong, {})
    strong_ratios = _strong_ratios(judged, strong)
    mixes = _random_mixes(judged, strong, strong_ratios)
    models = []
    for model, marks in judged.items():
        ttft_s = [mark.ttft_s for mark in marks.values() if mark.ttft_s is not None]
        total_s = [mark.total_s for mark in marks.values() if mark.total_s is not None]
        models.append(
            ModelSummary(
                model=model,
                accuracy=count_right(marks.values()),
                difference=_compare(marks, strong_marks) if model != strong else None,
                strong_ratio=strong_ratios[model],
                random_mix_ratio=mixes.get(model),
                ttft_p50_s=percentile(ttft_s, 0.5) if ttft_s else None,
                ttft_p95_s=percentile(ttft_s, 0.95) if ttft_s else None,
                total_p50_s=percentile(total_s, 0.5) if total_s else None,
                total_p95_s=percentile(total_s, 0.95) if total_s else None,
                errors=questions - len(marks),
            )
        )
    return models


def _price_models(
    models: Sequence[ModelSummary], judged: Mapping[str, Marks], prices: Mapping[str, float]
) -> Sequence[ModelSummary]:
    """The models with their costs, and the best that chance reaches at these costs."""
    tiers = {name: {mark.tier for mark in marks.values()} for name, marks in judged.items()}
    priced = [
        replace(model, cost=fmean(prices[mark.tier or ""] for mark in judged[model.model].values()))
        if tiers[model.model] and tiers[model.model] <= prices.keys()
        else model
        for model in models
    ]
    hull = find_hull(
        [
            (model.cost, model.accuracy.ratio)
            for model in priced
            if model.cost is not None and model.accuracy and len(tiers[model.model]) == 1
        ]
    )
    return [
        replace(model, same_cost_ratio=read_hull(hull, model.cost))
        if hull and model.cost is not None
        else model
        for model in priced
    ]


def _compare(ours: Marks, theirs: Marks) -> Difference | None:
    both = [key for key in ours if key in theirs]
    if not both:
        return None
    return compare(
        [ours[key].right is True for key in both], [theirs[key].right is True for key in both]
    )


def _strong_ratios(judged: Mapping[str, Marks], strong: str) -> Mapping[str, float | None]:
    """The share of a model's answers that came from the tier that answers for the strong model."""
    tiers = {
        model: Counter(mark.tier for mark in marks.values() if mark.tier)
        for model, marks in judged.items()
    }
    [(strong_tier, _)] = tiers.get(strong, Counter()).most_common(1) or [(strong, 0)]
    return {
        model: counts[strong_tier] / counts.total() if counts else None
        for model, counts in tiers.items()
    }


def _random_mixes(
    judged: Mapping[str, Marks], strong: str, strong_ratios: Mapping[str, float | None]
) -> Mapping[str, float]:
    """The accuracy of a random choice that sends each model's share of calls to the strong
    model."""
    weak = find_weak(strong_ratios, strong)
    best = count_right(judged.get(strong, {}).values())
    base = count_right(judged[weak].values()) if weak is not None else None
    if best is None or base is None:
        return {}
    return {
        model: base.ratio + ratio * (best.ratio - base.ratio)
        for model, ratio in strong_ratios.items()
        if ratio is not None and model not in (weak, strong)
    }


def find_weak(strong_ratios: Mapping[str, float | None], strong: str) -> str | None:
    """The first model that never calls the strong tier: the cheap end of every mix."""
    for model, ratio in strong_ratios.items():
        if ratio == 0 and model != strong:
            return model
    return None


def _summarize_tags(
    items: Sequence[Item], judged: Mapping[str, Marks]
) -> Mapping[str, Mapping[str, Mapping[str, Share]]]:
    tags: dict[str, dict[str, dict[str, Share]]] = {}
    for key in sorted({key for item in items for key in item.tags}):
        for value in sorted({item.tags[key] for item in items if key in item.tags}):
            tagged = [item.id for item in items if item.tags.get(key) == value]
            shares = tags.setdefault(key, {}).setdefault(value, {})
            for model, marks in judged.items():
                share = count_right(marks[id_] for id_ in tagged if id_ in marks)
                if share is not None:
                    shares[model] = share
    return tags
