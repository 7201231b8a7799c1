"""Read labelled calls: the question, and how right the fast and the strong model were."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import orjson

from serve_app.config.cascade import CascadeConfig
from serve_app.core.call import Prompt, Turn
from serve_app.offline.evaluate.answers import ANSWERS_FILE
from serve_app.offline.evaluate.dataset import Dataset
from serve_app.offline.learning.feedback_log import (
    FeedbackLog,
    InvalidEntry,
    find_logs,
    is_entry,
    is_log,
)
from serve_app.offline.learning.learning_errors import InvalidRecords
from serve_app.routing.confidence import DraftFeatures, draft_features

CHECKPOINT_TOKENS = CascadeConfig().checkpoint_tokens

Document = Mapping[str, object]
Numbered = tuple[int, Document]
Pair = tuple[str, str]


class InvalidRecord(ValueError):
    """A record cannot be used; the message names the key and the expected value."""

    def __init__(self, key: str, expected: str) -> None:
        super().__init__(f"{key}: expected {expected}")


@dataclass(frozen=True, slots=True)
class LabelledCall:
    """One labelled call; the scores are from 0 (wrong) to 1 (right).

    `between` are those of the tiers between the fast and the strong one, None where a tier has no
    label. `task` names the kind of call. `group` names the calls that must stay in one fold (a
    conversation, a template). `pair` names the two models, if the record has them, and `draft` is
    the confidence of the fast model in the beginning of its answer.
    """

    prompt: Prompt
    fast: float
    strong: float
    task: str = ""
    group: str = ""
    pair: Pair | None = None
    draft: DraftFeatures | None = None
    between: tuple[float | None, ...] = ()

    @property
    def text(self) -> str:
        """The text of all turns."""
        return "\n".join(turn.text for turn in self.prompt.turns)


@dataclass(frozen=True, slots=True)
class Records:
    """Labelled calls; `sha256` is that of the files they came from, `skipped` counts lines that
    hold no verdict on both models."""

    items: Sequence[LabelledCall]
    sha256: str
    skipped: int = 0


def read_records(
    paths: Iterable[Path],
    dataset: Dataset | None = None,
    fast: str = "fast",
    strong: str = "strong",
    checkpoint_tokens: int = CHECKPOINT_TOKENS,
    tiers: Sequence[str] = (),
) -> Records:
    """Every labelled line of JSONL files; empty lines mean nothing.

    The lines of feedback logs are joined by request id over all files; a directory stands for the
    logs in it. A file (or directory) of `serve-app evaluate` holds answers and no questions: these
    come from `dataset`, and the verdicts on the models `fast` and `strong` are joined by question.
    `checkpoint_tokens` of an answer's log-probabilities are its draft. `tiers` are the names of
    three or more tiers, weakest first, in place of `fast` and `strong`.

    Raises:
        InvalidRecords: there is no such file, or a line cannot be used.
    """
    names = tuple(tiers) or (fast, strong)
    items: list[LabelledCall] = []
    digest = hashlib.sha256()
    skipped = 0
    log = FeedbackLog()
    for path in chain.from_iterable(map(_find_files, paths)):
        content = _read(path)
        digest.update(content)
        lines = list(_parse_lines(path, content))
        if lines and all({"id", "model", "right"} <= line.keys() for _, line in lines):
            answers = [line for _, line in lines]
            found = _join_answers(path, answers, dataset, names, checkpoint_tokens)
        else:
            entries, others = _part(lines)
            _add_entries(log, path, entries)
            found = [
                _parse_numbered(path, number, line, checkpoint_tokens, tiers)
                for number, line in others
            ]
        skipped += found.count(None)
        items += [record for record in found if record is not None]
    joined = log.join()
    found = [parse_record(call, tiers=tiers) for call in joined.calls]
    items += [record for record in found if record is not None]
    return Records(items, digest.hexdigest(), skipped + found.count(None) + joined.skipped)


def parse_record(
    document: Document,
    checkpoint_tokens: int = CHECKPOINT_TOKENS,
    tiers: Sequence[str] = (),
) -> LabelledCall | None:
    """One labelled call; None where the fast or the strong model's verdict is missing, as in a log
    that is not ready.

    Raises:
        InvalidRecord: it cannot be used.
    """
    fast, *between, strong = _parse_scores(document, tiers)
    prompt = _parse_prompt(document)
    if fast is None or strong is None:
        return None
    return LabelledCall(
        prompt=prompt,
        fast=fast,
        strong=strong,
        task=_parse_name(document, "task"),
        group=_parse_name(document, "group"),
        pair=_parse_pair(document),
        draft=_parse_draft(document, checkpoint_tokens),
        between=tuple(between),
    )


def _parse_scores(document: Document, tiers: Sequence[str]) -> list[float | None]:
    """Of each of the tiers; a line with two scores has labels of the outer two alone."""
    scores = document.get("scores")
    if not tiers or scores is None:
        fast, strong = (_parse_score(document, f"{size}_score") for size in ("small", "large"))
        return [fast, *[None] * (len(tiers) - 2), strong]
    if not isinstance(scores, dict):
        raise InvalidRecord("scores", f"an object with {', '.join(tiers)}")
    return [_parse_score(scores, tier) for tier in tiers]


def _find_files(path: Path) -> Sequence[Path]:
    if not path.is_dir():
        return [path]
    answers = path / ANSWERS_FILE
    return [answers] if answers.exists() else find_logs(path) or [answers]


def _part(lines: Sequence[Numbered]) -> tuple[Sequence[Numbered], Sequence[Numbered]]:
    """Those of a feedback log, and the others."""
    entries = [line for line in lines if is_entry(line[1])]
    return entries, [line for line in lines if not is_entry(line[1])]


def _add_entries(log: FeedbackLog, path: Path, entries: Iterable[Numbered]) -> None:
    for number, entry in entries:
        try:
            log.add(entry)
        except InvalidEntry as error:
            raise InvalidRecords(path, number, str(error)) from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise InvalidRecords(path, None, error.strerror or "cannot be read") from None


def _parse_lines(path: Path, content: bytes) -> Iterable[Numbered]:
    lines = content.split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            document = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            if is_log(path) and number == len(lines):
                return  # A Router was killed while it wrote the line.
            raise InvalidRecords(path, number, f"the line: expected JSON ({error})") from None
        if not isinstance(document, dict):
            raise InvalidRecords(path, number, "the line: expected an object")
        yield number, document


def _parse_numbered(
    path: Path, number: int, document: Document, checkpoint_tokens: int, tiers: Sequence[str]
) -> LabelledCall | None:
    try:
        return parse_record(document, checkpoint_tokens, tiers)
    except InvalidRecord as error:
        raise InvalidRecords(path, number, str(error)) from None


def _join_answers(
    path: Path,
    answers: Sequence[Document],
    dataset: Dataset | None,
    models: Sequence[str],
    checkpoint_tokens: int,
) -> list[LabelledCall | None]:
    """None for a question that the weakest or the strongest model has no verdict on."""
    fast, *between, strong = models
    if dataset is None:
        raise InvalidRecords(
            path, None, "has answers without their questions; give the questions with --dataset"
        )
    verdicts: dict[tuple[str, str], bool] = {}
    drafts: dict[str, DraftFeatures | None] = {}
    for answer in answers:
        question, model = str(answer["id"]), str(answer["model"])
        if isinstance(answer["right"], bool):
            verdicts[question, model] = answer["right"]
        if model == fast:
            drafts[question] = _read_logprobs(answer.get("logprobs"), checkpoint_tokens)
    if not verdicts.keys() & {
        (item.id, model) for item in dataset.items for model in (fast, strong)
    }:
        raise InvalidRecords(
            path,
            None,
            f"answers no question of {dataset.name} as '{fast}' or '{strong}'; "
            "see --dataset, --fast and --strong",
        )
    found: list[LabelledCall | None] = []
    for item in dataset.items:
        ours, theirs = verdicts.get((item.id, fast)), verdicts.get((item.id, strong))
        if ours is None or theirs is None:
            found.append(None)
            continue
        found.append(
            LabelledCall(
                Prompt(turns=_parse_messages(item.messages)),
                float(ours),
                float(theirs),
                group=item.tags.get("group", ""),
                draft=drafts.get(item.id),
                between=tuple([_find_verdict(verdicts, item.id, model) for model in between]),
            )
        )
    return found


def _find_verdict(
    verdicts: Mapping[tuple[str, str], bool], question: str, model: str
) -> float | None:
    verdict = verdicts.get((question, model))
    return None if verdict is None else float(verdict)


def _parse_score(document: Document, key: str) -> float | None:
    score = document.get(key)
    if score is None:
        return None
    if isinstance(score, bool):
        return float(score)
    if not isinstance(score, int | float) or not 0 <= score <= 1:
        raise InvalidRecord(key, "a number from 0 (wrong) to 1 (right), or null")
    return float(score)


def _parse_draft(document: Document, checkpoint_tokens: int) -> DraftFeatures | None:
    """From `draft`, the two features, or `small_logprobs`, those of the fast model's tokens."""
    draft, logprobs = document.get("draft"), document.get("small_logprobs")
    if draft is None:
        found = _read_logprobs(logprobs, checkpoint_tokens)
        if logprobs is not None and found is None:
            raise InvalidRecord("small_logprobs", "a list of numbers, none above 0")
        return found
    names = ("mean_probability", "min_probability")
    values = [draft.get(name) if isinstance(draft, dict) else None for name in names]
    if not all(isinstance(value, int | float) and 0 <= value <= 1 for value in values):
        raise InvalidRecord("draft", f"an object with {' and '.join(names)}, 0 to 1")
    return DraftFeatures(*(float(value) for value in values if value is not None))


def _read_logprobs(logprobs: object, checkpoint_tokens: int) -> DraftFeatures | None:
    if not isinstance(logprobs, list) or not all(
        isinstance(logprob, int | float) and logprob <= 0 for logprob in logprobs
    ):
        return None
    return draft_features(logprobs[:checkpoint_tokens])


def _parse_prompt(document: Document) -> Prompt:
    if ("messages" in document) == ("prompt" in document):
        raise InvalidRecord("messages", "either `messages` or `prompt`")
    tools, response_format = document.get("tools"), document.get("response_format")
    return Prompt(
        turns=_parse_turns(document),
        tools=len(tools) if isinstance(tools, list) else 0,
        schema=isinstance(response_format, dict) and response_format.get("type") != "text",
    )


def _parse_turns(document: Document) -> tuple[Turn, ...]:
    if "prompt" in document:
        if not isinstance(document["prompt"], str):
            raise InvalidRecord("prompt", "a string")
        return (Turn("user", document["prompt"]),)
    messages = document["messages"]
    if not isinstance(messages, list) or not messages:
        raise InvalidRecord("messages", "a list of messages")
    return _parse_messages(messages)


def _parse_messages(messages: Sequence[object]) -> tuple[Turn, ...]:
    turns = []
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise InvalidRecord(f"messages[{index}]", "an object with `role` and `content`")
        turns.append(Turn(message["role"], _flatten(message.get("content"))))
    return tuple(turns)


def _flatten(content: object) -> str:
    """The text of a message, be it one string or OpenAI's list of parts."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    return "\n".join(text for text in texts if isinstance(text, str))


def _parse_name(document: Document, key: str) -> str:
    name = document.get(key, "")
    if name is None or isinstance(name, str):
        return name or ""
    raise InvalidRecord(key, "a string")


def _parse_pair(document: Document) -> Pair | None:
    small, large = _parse_name(document, "small_model"), _parse_name(document, "large_model")
    return (small, large) if small and large else None
