"""A scorer that learns: which calls would the strong model get right and the fast one not?"""

from __future__ import annotations

import re

from serve_app.core.call import Prompt
from serve_app.routing.features import TextFeatures, is_small_talk
from serve_app.routing.vector import Observer
from serve_app.routing.weights import RoutingWeights

# The share of a hard turn's score that the next turn inherits. A follow-up has the same subject; a
# longer turn that scores low by itself may have another subject.
FOLLOW_UP_DECAY = 0.97
NEW_ASK_DECAY = 0.8
FOLLOW_UP_TOKENS_MAX = 16

_REFERS = re.compile(
    r"\b(?:it|its|this|that|these|those|them|they|above|previous|again|same|instead|also|too"
    r"|continue|go on)\b|^and\b|[它这那再也还]|继续|上面|上述|前面|之前|刚才|同样|改成|换成|接着"
)


class LearnedScorer:
    """Two logistic heads, P(strong right) and P(fast right); the score grows with the difference.

    The score is 0.5 where the strong model is expected to be right so much more often that its
    price is worth paying (`gain_min` of the weights).
    """

    def __init__(self, weights: RoutingWeights) -> None:
        self._weights = weights

    def score(self, prompt: Prompt) -> float:
        """The highest score of the newest asks, where older asks count less.

        A hard ask escalates at once. Later turns inherit from it, and a short follow-up inherits
        nearly all of it, until a turn is plainly about something easy.
        """
        observer = Observer(prompt)
        best, kept = 0.0, 1.0
        for age, ask in enumerate(observer.asks):
            vector = observer.observe(age)
            best = max(best, kept * self._weights.score(vector))
            kept *= _inherited_share(ask, vector.text)
            if kept <= best:  # earlier scores, at most 1, can no longer matter
                break
        return best


def _inherited_share(ask: str, text: TextFeatures) -> float:
    """The share of an earlier score that this turn inherits."""
    if is_small_talk(ask):
        return 0.0
    refers = len(ask) <= 400 and _REFERS.search(ask.lower()) is not None
    if text.easy_asks and not text.hard_asks and not refers:
        return 0.0
    if refers or text.tokens <= FOLLOW_UP_TOKENS_MAX:
        return FOLLOW_UP_DECAY
    return NEW_ASK_DECAY
