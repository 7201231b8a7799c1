"""Writes the training set of a log: lessons, a part of them to watch the training by, the card."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from serve_app.core.outputs import OutputUnusable
from serve_app.offline.distill.card import (
    CARD_JSON,
    CARD_MARKDOWN,
    Card,
    render_fates,
    render_json,
    render_markdown,
    render_steps,
)
from serve_app.offline.distill.distill_errors import NothingToTeach
from serve_app.offline.distill.log_rows import Log
from serve_app.offline.distill.selection import (
    Rules,
    Selection,
    is_for_validation,
    question_key,
)
from serve_app.offline.distill.training_set import (
    TRAIN_FILE,
    VALIDATION_FILE,
    Lesson,
    render_lesson,
)
from serve_app.offline.evaluate.dataset import Dataset, read_dataset

GIVEN = "only calls whose client sent `x-feedback-consent: yes`"
ASSUMED = "calls whose client did not refuse (`--assumed-consent`)"


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The questions that are never taught, and the files that they are from."""

    keys: frozenset[str]
    files: Mapping[str, str]


def read_held_out(paths: Iterable[Path]) -> HeldOut:
    """The last turn of every question of labelled sets.

    Raises:
        EvaluationFailed: a file cannot be read, or a line cannot be used.
    """
    keys, files = set[str](), dict[str, str]()
    for path in paths:
        dataset = read_dataset(path)
        files[path.name] = dataset.sha256
        keys |= set(_question_keys(dataset))
    return HeldOut(frozenset(keys), files)


def write_training_set(
    log: Log,
    selection: Selection,
    rules: Rules,
    directory: Path,
    *,
    validation_ratio: float,
    held_out: Mapping[str, str],
    asked: str | None,
) -> Card:
    """Write lessons and card into the directory.

    Raises:
        NothingToTeach: there is no lesson to learn from.
        OutputUnusable: the disk does not take them.
    """
    parts = _split(selection.lessons, validation_ratio)
    contents = [b"".join(map(render_lesson, part)) for part in parts]
    card = Card(
        created_at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        files=log.files,
        calls=selection.fates.total(),
        ambiguous=log.ambiguous,
        fates=render_fates(selection),
        sources=dict(selection.sources),
        verdicts=dict(selection.verdicts),
        train=len(parts[0]),
        validation=len(parts[1]),
        train_sha256=hashlib.sha256(contents[0]).hexdigest(),
        validation_sha256=hashlib.sha256(contents[1]).hexdigest(),
        consent=ASSUMED if rules.assumed_consent else GIVEN,
        redacted_again_by=list(rules.redact),
        held_out=held_out,
        asked=asked,
    )
    if not parts[0]:
        raise NothingToTeach(_explain(card))
    _write(directory, contents, card)
    return card


def _split(lessons: Sequence[Lesson], ratio: float) -> tuple[Sequence[Lesson], Sequence[Lesson]]:
    train = [lesson for lesson in lessons if not is_for_validation(lesson, ratio)]
    return train, [lesson for lesson in lessons if is_for_validation(lesson, ratio)]


def _write(directory: Path, contents: Sequence[bytes], card: Card) -> None:
    """The card comes last and stands for the whole."""
    files = {
        TRAIN_FILE: contents[0],
        VALIDATION_FILE: contents[1],
        CARD_MARKDOWN: render_markdown(card).encode(),
        CARD_JSON: render_json(card),
    }
    (directory / CARD_JSON).unlink(missing_ok=True)
    for name, content in files.items():
        path = directory / name
        try:
            path.write_bytes(content)
            path.chmod(0o600)  # as the files of the log
        except OSError as error:
            raise OutputUnusable(path, error.strerror or type(error).__name__) from None


def _explain(card: Card) -> str:
    if not card.calls:
        return "The log has no call. `feedback.directory` of the Router says where it is."
    reasons = "; ".join(f"{reason}: {count}" for reason, count, _ in render_steps(card))
    return (
        f"Of {card.calls} calls none may be taught ({reasons}). Consent is the header "
        "`x-feedback-consent: yes` of a call, or --assumed-consent here; answers are kept with "
        "`feedback.store_answers: true`, or asked with --ask; verdicts are labels or /v1/feedback."
    )


def _question_keys(dataset: Dataset) -> Iterable[str]:
    for item in dataset.items:
        content = item.messages[-1].get("content")
        if isinstance(content, str):
            yield question_key(content)
