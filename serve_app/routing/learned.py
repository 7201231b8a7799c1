"""A scorer that learns: which calls would the strong model get right and the fast one not?"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serve_app.core.call import Prompt
from serve_app.routing.features import TextFeatures, is_small_talk
from serve_app.routing.scorer import Rating
from serve_app.routing.seen import Seen
from serve_app.routing.vector import Observer, SystemViews
from serve_app.routing.weights import RoutingWeights

# The share of a hard turn's score that the next turn inherits. A follow-up has the same subject; a
# longer turn that scores low by itself may have another subject.
FOLLOW_UP_DECAY = 0.97
NEW_ASK_DECAY = 0.8
FOLLOW_UP_TOKENS_MAX = 16

REFERENCE_CHARS_MAX = 400
VIEWS_MAX = 1024

_REFERRING = frozenset(
    (
        *("it", "its", "this", "that", "these", "those", "them", "they", "above", "previous"),
        *("again", "same", "instead", "also", "too", "continue"),
    )
)
_REFERS = re.compile(
    r"\bgo on\b|^and\b|[它这那再也还]|继续|上面|上述|前面|之前|刚才|同样|改成|换成|接着"
)
_RUNS = re.compile(r"\w+")


@dataclass(slots=True)
class _View:
    """What a score needs of one ask: the n-grams' part of the log-odds, and the features."""

    ngrams: NDArray[np.float32]
    text: TextFeatures
    share: float | None = None
    """What of an earlier score this turn inherits, None until it is asked for."""


class LearnedScorer:
    """A logistic head for each tier, its P(right); the score grows with the difference of the
    strongest and the weakest.

    The score is 0.5 where the strongest model is expected to be right so much more often that its
    price is worth paying (`gain_min` of the weights).
    """

    def __init__(self, weights: RoutingWeights) -> None:
        self._weights = weights
        self.heads = weights.heads
        self._systems = SystemViews()
        self._views = Seen[_View](VIEWS_MAX)

    def score(self, prompt: Prompt) -> float:
        """The highest score of the newest asks, where older asks count less.

        A hard ask escalates at once. Later turns inherit from it, and a short follow-up inherits
        nearly all of it, until a turn is plainly about something easy.
        """
        return self.rate(prompt).score

    def rate(self, prompt: Prompt) -> Rating:
        """The score, and the chances of the newest ask.

        If an older ask decides the score, its chances are mixed in by the share that is inherited.
        """
        observer = Observer(prompt, self._systems)
        view = self._view(observer, 0)
        newest = chances = self._predict(view, observer, 0)
        best, kept = self._score(chances), 1.0
        for age in range(1, len(observer.asks)):
            kept *= _inherited_share(observer.asks[age - 1], view)
            if kept <= best:  # earlier scores, at most 1, can no longer matter
                break
            view = self._view(observer, age)
            earlier = self._predict(view, observer, age)
            score = kept * self._score(earlier)
            if score > best:
                best, chances = score, _mix(newest, earlier, kept)
        return Rating(best, chances)

    def _view(self, observer: Observer, age: int) -> _View:
        """An ask is hashed and searched once, though it comes with each later turn."""
        begin = observer.asks[age][: REFERENCE_CHARS_MAX + 1]
        return self._views.recall((begin, *observer.texts(age)), lambda: self._look(observer, age))

    def _look(self, observer: Observer, age: int) -> _View:
        vector = observer.observe(age)
        return _View(self._weights.weigh_ngrams(vector), vector.text)

    def _predict(self, view: _View, observer: Observer, age: int) -> tuple[float, ...]:
        # A view does not hold the length of the whole ask, which asks of one view may differ in.
        return self._weights.predict_from(view.ngrams, observer.list_terms(view.text, age))

    def _score(self, chances: tuple[float, ...]) -> float:
        return self._weights.map_gain(chances[-1] - chances[0])


def _mix(newest: tuple[float, ...], earlier: tuple[float, ...], kept: float) -> tuple[float, ...]:
    """The chances of two asks, those of the earlier ask by the share that is inherited."""
    return tuple([kept * e + (1 - kept) * n for n, e in zip(newest, earlier, strict=True)])


def _inherited_share(ask: str, view: _View) -> float:
    """The share of an earlier score that this turn inherits."""
    if view.share is None:
        view.share = _find_share(ask, view.text)
    return view.share


def _find_share(ask: str, text: TextFeatures) -> float:
    if is_small_talk(ask):
        return 0.0
    refers = len(ask) <= REFERENCE_CHARS_MAX and _refers(ask.lower())
    if text.easy_asks and not text.hard_asks and not refers:
        return 0.0
    if refers or text.tokens <= FOLLOW_UP_TOKENS_MAX:
        return FOLLOW_UP_DECAY
    return NEW_ASK_DECAY


def _refers(low: str) -> bool:
    """Whether a turn names something said before."""
    return not _REFERRING.isdisjoint(_RUNS.findall(low)) or _REFERS.search(low) is not None
