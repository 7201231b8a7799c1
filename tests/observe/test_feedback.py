"""What is told of samples and feedback."""

from __future__ import annotations

import pytest
import ray
from ray.serve.metrics import Counter

from serve_app.feedback.tally import Fate, FeedbackTally, Judged, band_of
from serve_app.observe.feedback import FeedbackMetrics, QualityMetrics


def test_counts_go_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under labels of closed sets, and no Ray is started for it."""
    told: list[tuple[float, dict[str, str]]] = []
    monkeypatch.setattr(Counter, "inc", lambda self, value, tags: told.append((value, tags)))
    tally = FeedbackTally()
    metrics = FeedbackMetrics(tally.take)
    tally.fates[Fate.STORED] += 2
    tally.fates[Fate.LABELLED_MATCH] += 1
    tally.verdicts[False] += 3
    metrics.flush()
    metrics.flush()
    assert told == [
        (2, {"fate": "stored"}),
        (1, {"fate": "labelled_match"}),
        (3, {"right": "false"}),
    ]
    assert not ray.is_initialized()


def test_labelled_answers_go_out_by_tier_and_score(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accuracy by tier, and accuracy of the weak tier by score, are made of one counter."""
    told: list[tuple[float, dict[str, str]]] = []
    monkeypatch.setattr(Counter, "inc", lambda self, value, tags: told.append((value, tags)))
    tally = FeedbackTally()
    tally.judged[Judged("fast", False, band_of(0.31))] += 2
    tally.judged[Judged("strong", True, band_of(None))] += 1
    metrics = QualityMetrics(tally.take_judged)
    metrics.flush()
    metrics.flush()
    assert told == [
        (2, {"tier": "fast", "right": "false", "band": "0.3"}),
        (1, {"tier": "strong", "right": "true", "band": "none"}),
    ]


@pytest.mark.parametrize(("score", "band"), [(0.0, 0), (0.09, 0), (0.1, 1), (0.99, 9), (1.0, 9)])
def test_scores_have_ten_bands(score: float, band: int) -> None:
    """The highest score belongs to the last one."""
    assert band_of(score) == band
