"""The card of a training set: where it comes from, and what became of every row of the log."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import orjson

from serve_app.offline.distill.log_rows import LogFile
from serve_app.offline.distill.selection import Fate, Selection

CARD_JSON = "card.json"
CARD_MARKDOWN = "CARD.md"


@dataclass(frozen=True, slots=True)
class Card:
    """Counts at each step; `fates` sums to `calls`."""

    created_at: str
    files: Sequence[LogFile]
    calls: int
    ambiguous: int
    fates: Mapping[str, int]
    sources: Mapping[str, int]
    verdicts: Mapping[str, int]
    train: int
    validation: int
    train_sha256: str
    validation_sha256: str
    consent: str
    redacted_again_by: Sequence[str]
    held_out: Mapping[str, str]
    asked: str | None


def render_fates(selection: Selection) -> Mapping[str, int]:
    """The number of rows of each fate, in the order in which the rules are applied."""
    return {fate.name.lower(): selection.fates[fate] for fate in Fate if selection.fates[fate]}


def render_json(card: Card) -> bytes:
    """The card for programs."""
    return orjson.dumps(asdict(card), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def render_markdown(card: Card) -> str:
    """The card for people."""
    return "\n".join([*_sections(card), ""])


def render_steps(card: Card) -> Iterator[tuple[str, int, int]]:
    """Each rule that dropped rows: its reason, the rows that it dropped, and those that are left
    then."""
    left = card.calls
    for fate in Fate:
        dropped = card.fates.get(fate.name.lower(), 0)
        if fate is not Fate.KEPT and dropped:
            left -= dropped
            yield fate.value, dropped, left


def _sections(card: Card) -> Iterator[str]:
    yield f"# Training set of {card.created_at}"
    yield ""
    yield f"{card.train} conversations to learn from, {card.validation} to watch the training by."
    yield f"Consent: {card.consent}. Texts went once more through the patterns "
    yield f"{', '.join(card.redacted_again_by) or '(none)'}."
    if card.asked is not None:
        yield f"Missing answers were asked from {card.asked}."
    yield ""
    yield from _table(
        "| step | dropped | left |",
        [("calls of the log", "", card.calls), *render_steps(card)],
    )
    yield from _table("| answer from | lessons |", card.sources.items())
    yield from _table("| verdict | lessons |", card.verdicts.items())
    yield from _table("| input | SHA-256 |", [(file.name, file.sha256) for file in card.files])
    held = [(name, sha256) for name, sha256 in card.held_out.items()]
    if held:
        yield from _table("| held out | SHA-256 |", held)
    yield from _table(
        "| output | SHA-256 |",
        [("train.jsonl", card.train_sha256), ("validation.jsonl", card.validation_sha256)],
    )


def _table(header: str, rows: Iterable[Sequence[object]]) -> Iterator[str]:
    yield header
    yield "|" + "---|" * (header.count("|") - 1)
    for row in rows:
        yield "| " + " | ".join(map(str, row)) + " |"
    yield ""
