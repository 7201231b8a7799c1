"""What is told of samples and feedback."""

from __future__ import annotations

import pytest
import ray
from ray.serve.metrics import Counter

from serve_app.feedback.tally import Fate, FeedbackTally
from serve_app.observe.feedback import FeedbackMetrics


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
