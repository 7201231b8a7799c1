"""Metrics of batches and of webhooks; Ray itself need not run."""

from __future__ import annotations

from collections import Counter as Tally
from enum import StrEnum

import pytest
from ray.serve.metrics import Counter, Gauge

from serve_app.batches.batch import BACKGROUND_LABEL, BatchProgress
from serve_app.batches.notices import WaitingEvents
from serve_app.observe.batches import (
    BATCHES_MAX,
    OTHERS,
    BatchMetrics,
    WebhookMetrics,
    count_lines,
)

Told = list[tuple[str, float, dict[str, str]]]


class Fate(StrEnum):
    """As the sender has it."""

    DELIVERED = "delivered"


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    """What Ray is told: name, value, labels."""
    found: Told = []

    def note(metric: Counter | Gauge, value: float, tags: dict[str, str] | None = None) -> None:
        found.append((str(metric.info["name"]).removeprefix("serve_app_"), value, tags or {}))

    monkeypatch.setattr(Counter, "inc", note)
    monkeypatch.setattr(Gauge, "set", note)
    return found


def progress(name: str, created_at: float = 0.0, *, waits: bool = True) -> BatchProgress:
    return BatchProgress(name, created_at, waits, waiting=3, claimed=2, completed=5, failed=1)


def test_lines_and_the_oldest_wait(told: Told) -> None:
    """A batch of which every line has a worker does not wait; without batches nothing is told."""
    answers = [None, [progress("batch_1", 10.0, waits=False), progress("batch_2", 40.0)], []]
    metrics = BatchMetrics(lambda: answers.pop(0), lambda: 100.0)
    metrics.flush()
    assert not told
    metrics.flush()
    lines = {(tags["batch"], tags["state"]): value for _, value, tags in told if tags}
    assert lines["batch_1", "completed"] == 5
    assert lines["batch_2", "waiting"] == 3
    assert lines[OTHERS, "claimed"] == 0
    assert told.pop() == ("batch_oldest_wait_seconds", 60.0, {})
    metrics.flush()
    assert told.pop() == ("batch_oldest_wait_seconds", 0.0, {})


def test_the_number_of_batches_with_a_label_is_bounded() -> None:
    """Later batches share one label, and background responses another one."""
    batches = [progress(f"batch_{number}") for number in range(BATCHES_MAX + 5)]
    lines = count_lines([progress("resp_1"), progress("resp_2"), *batches])
    assert lines[BACKGROUND_LABEL, "waiting"] == 6
    assert lines[OTHERS, "waiting"] == 6 * 3
    assert len({batch for batch, _ in lines}) == BATCHES_MAX + 1


def test_deliveries_by_receiver(told: Told) -> None:
    """Attempts are counted; what waits is a gauge, and its age is 0 where nothing waits."""
    waiting = {"main": WaitingEvents(2, 90.0), "idle": WaitingEvents(0, 0.0)}
    tallies = [Tally({("main", Fate.DELIVERED): 4})]
    WebhookMetrics(tallies.pop, lambda: waiting, lambda: 100.0).flush()
    assert told == [
        ("webhook_attempts", 4, {"webhook": "main", "fate": "delivered"}),
        ("webhook_events_waiting", 2, {"webhook": "main"}),
        ("webhook_oldest_wait_seconds", 10.0, {"webhook": "main"}),
        ("webhook_events_waiting", 0, {"webhook": "idle"}),
        ("webhook_oldest_wait_seconds", 0.0, {"webhook": "idle"}),
    ]
