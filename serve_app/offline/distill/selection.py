"""Which answers of a log may be taught, and why the others may not.

Every row ends in exactly one `Fate`; the rules are applied in the order of the enumeration.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from serve_app.core.normalise import normalise
from serve_app.core.redact import RedactionFailed, Redactor
from serve_app.offline.distill.log_rows import Row
from serve_app.offline.distill.training_set import Lesson, Message

RIGHT_MIN = 0.5
"""An answer with a verdict of at least this counts as right, as in the Router."""


class Fate(StrEnum):
    """What became of a row; the value explains it in the card."""

    NO_CONSENT = "the client did not consent itself"
    NO_QUESTION = "the conversation does not end with a question of the user"
    NO_ANSWER = "the strong tier's answer is not in the log"
    NO_VERDICT = "neither a comparison, a judge nor an application has judged the answer"
    WRONG = "the strong tier's answer was judged wrong"
    NOT_BETTER = "the fast tier's answer was judged better"
    DISAGREES = "asked twice, the strong tier gave two results"
    CUT_OFF = "the strong tier's answer was cut off, or did not come"
    NOT_REDACTED = "redaction took too long"
    REDACTED_ANSWER = "the answer holds a placeholder of redaction"
    TOO_LONG = "the conversation is too long"
    HELD_OUT = "the question is held out for the evaluation"
    DUPLICATE = "the same conversation is there already"
    KEPT = "kept"


@dataclass(frozen=True, slots=True)
class Rules:
    """What may be taught.

    `held_out` has the keys of questions that are never taught. `assumed_consent`: rows whose client
    did not say no are taught too.
    """

    redact: Sequence[str]
    assumed_consent: bool = False
    chars_max: int = 8000
    held_out: Collection[str] = ()


@dataclass(slots=True)
class Selection:
    """The lessons, the fates of all rows, and where the lessons are from."""

    lessons: list[Lesson] = field(default_factory=list)
    fates: Counter[Fate] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    verdicts: Counter[str] = field(default_factory=Counter)


def may_be_asked(row: Row, rules: Rules) -> bool:
    """Whether only the strong tier's answer or the verdict on it is missing."""
    return judge_row(row, rules) in (Fate.NO_ANSWER, Fate.NO_VERDICT)


def judge_row(row: Row, rules: Rules) -> Fate:
    """The fate of a row by what the log says of it; KEPT where its texts decide."""
    if not (row.consented or rules.assumed_consent):
        return Fate.NO_CONSENT
    last = row.conversation[-1]
    if last.role != "user" or not last.content.strip():
        return Fate.NO_QUESTION
    if row.answer is None or not row.answer.strip():
        return Fate.NO_ANSWER
    if row.strong is None:
        return Fate.NO_VERDICT
    if row.strong < RIGHT_MIN:
        return Fate.WRONG
    return Fate.NOT_BETTER if (row.small or 0.0) > row.strong else Fate.KEPT


def select(rows: Iterable[Row], rules: Rules, failed: Counter[Fate] | None = None) -> Selection:
    """Judge every row; `failed` counts rows that were asked and have no answer to judge."""
    selection = Selection()
    selection.fates.update(failed or {})
    redactor = Redactor(rules.redact)
    known: set[str] = set()
    for row in rows:
        fate, lesson = _judge_texts(row, rules, redactor, known)
        selection.fates[fate] += 1
        if lesson is not None:
            selection.lessons.append(lesson)
            selection.sources[row.source] += 1
            selection.verdicts[_describe(row)] += 1
    return selection


def conversation_key(conversation: Sequence[Message]) -> str:
    """The same for conversations that differ in case, width and outer punctuation only."""
    digest = hashlib.sha256()
    for turn in conversation:
        digest.update(f"{turn.role}\0{normalise(turn.content)}\0".encode())
    return digest.hexdigest()


def question_key(text: str) -> str:
    """The same for questions that differ in case, width and outer punctuation only."""
    return conversation_key([Message("user", text)])


def is_for_validation(lesson: Lesson, ratio: float) -> bool:
    """Whether a lesson only measures the training; the same for the same conversation always."""
    digest = hashlib.sha256(b"validation" + conversation_key(lesson.conversation).encode()).digest()
    return int.from_bytes(digest[:8]) < ratio * (1 << 64)


def _judge_texts(
    row: Row, rules: Rules, redactor: Redactor, known: set[str]
) -> tuple[Fate, Lesson | None]:
    fate = judge_row(row, rules)
    if fate is not Fate.KEPT:
        return fate, None
    try:
        lesson = _redact(row, redactor)
    except RedactionFailed:
        return Fate.NOT_REDACTED, None
    if any(placeholder in lesson.answer for placeholder in _placeholders(rules)):
        return Fate.REDACTED_ANSWER, None
    if sum(map(len, _texts(lesson))) > rules.chars_max:
        return Fate.TOO_LONG, None
    if question_key(lesson.conversation[-1].content) in rules.held_out:
        return Fate.HELD_OUT, None
    key = conversation_key(lesson.conversation)
    if key in known:
        return Fate.DUPLICATE, None
    known.add(key)
    return Fate.KEPT, lesson


def _redact(row: Row, redactor: Redactor) -> Lesson:
    """The log is redacted already, but perhaps by fewer patterns than these."""
    texts = redactor.redact([*(turn.content for turn in row.conversation), row.answer or ""])
    turns = zip(row.conversation, texts, strict=False)
    return Lesson(tuple(Message(turn.role, text) for turn, text in turns), texts[-1].strip())


def _placeholders(rules: Rules) -> Sequence[str]:
    return [f"[{name}]" for name in ("redacted", *rules.redact) if name.isidentifier()]


def _texts(lesson: Lesson) -> Iterable[str]:
    return [*(turn.content for turn in lesson.conversation), lesson.answer]


def _describe(row: Row) -> str:
    if row.small is None:
        return "the strong tier's answer is right"
    return "both answers are right" if row.small >= RIGHT_MIN else "only the strong tier is right"
