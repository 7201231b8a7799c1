"""What the engines said of one question, as lines of a file that can be read again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson


@dataclass(frozen=True, slots=True)
class Row:
    """The signals of the fast model before and while it answers, and both models' answers.

    `first` has the log-probabilities of the twenty likeliest first tokens, `prompt` those of the
    prompt's own tokens, `knows` P(yes) to the question whether the answer will be right, `hidden`
    the last hidden state after the prompt, `logprobs` those of the answer's tokens. `samples` are
    answers at a temperature. `verdicts` has the judge's, by language and order (`en ab`): whether
    each of fast's and strong's answers is right.
    """

    key: str
    fast: str
    fast_right: bool
    strong: str
    strong_right: bool
    logprobs: Sequence[float]
    first: Sequence[float]
    prompt: Sequence[float]
    knows: float
    hidden: Sequence[float]
    samples: Sequence[str]
    verdicts: Mapping[str, tuple[bool, bool]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cost:
    """What a call of one kind costs by itself, with nothing cached: a median, and means.

    `engine_ms` is the time from the first step of the engine to its last, as vLLM counts it,
    `cpu_ms` the CPU time of all processes of the server.
    """

    kind: str
    calls: int
    ms: float
    engine_ms: float
    cpu_ms: float
    prompt_tokens: float
    output_tokens: float


def write_rows(path: Path, rows: Iterable[Row], costs: Iterable[Cost]) -> None:
    """Every row, then the costs."""
    documents = [{"row": asdict(row)} for row in rows] + [{"cost": asdict(cost)} for cost in costs]
    option = orjson.OPT_APPEND_NEWLINE
    path.write_bytes(b"".join(orjson.dumps(document, option=option) for document in documents))


def read_rows(path: Path) -> tuple[Sequence[Row], Sequence[Cost]]:
    """The rows and costs that `write_rows` wrote."""
    documents = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    rows = [_parse_row(document["row"]) for document in documents if "row" in document]
    return rows, [Cost(**document["cost"]) for document in documents if "cost" in document]


def _parse_row(document: dict[str, Any]) -> Row:
    verdicts = {kind: (fast, strong) for kind, (fast, strong) in document["verdicts"].items()}
    return Row(**{**document, "samples": tuple(document["samples"]), "verdicts": verdicts})
