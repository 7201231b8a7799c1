"""Join the lines of a service's feedback log: calls, their labels, and the applications' feedback.

The lines are in any order and in any file of the log (`feedback/lines.py` writes them). Feedback on
an answer counts more than its label, and newer feedback more than older feedback. If a client gave
several calls one request id, no line can be assigned to one of them, and none of them counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

Document = Mapping[str, object]

FILES = "calls_*.jsonl"
KINDS = frozenset({"call", "label", "feedback"})
_SCORES = ("small_score", "large_score")
_KEPT = ("messages", "small_model", "large_model", "answered_by_large", "consent", "answer")


class InvalidEntry(ValueError):
    """A line of the log cannot be used; the message names the key and the expected value."""

    def __init__(self, key: str, expected: str) -> None:
        super().__init__(f"{key}: expected {expected}")


@dataclass(frozen=True, slots=True)
class JoinedLog:
    """Every call of a log as one document, with `small_score` and `large_score` where it has a
    label, with the two answers (`answer`, `other_answer`) where these are kept, and with `reported`
    where an application said whether the answer was right. `skipped` counts the request ids of
    several calls, and of feedback on none."""

    calls: Sequence[Document]
    skipped: int


def find_logs(directory: Path) -> Sequence[Path]:
    """The files of the feedback log in a directory."""
    return sorted(directory.glob(FILES))


def is_log(path: Path) -> bool:
    """Whether a file is one that a Router writes."""
    return path.match(FILES)


def is_entry(document: Document) -> bool:
    """Whether a JSON object is a line of a feedback log."""
    return document.get("kind") in KINDS and "request_id" in document


class FeedbackLog:
    """The lines that have been read so far."""

    def __init__(self) -> None:
        self._calls: dict[str, Document] = {}
        self._shared: set[str] = set()
        self._labels: dict[str, Document] = {}
        self._feedback: dict[str, Document] = {}

    def add(self, entry: Document) -> None:
        """Take a line.

        Raises:
            InvalidEntry: the line cannot be used.
        """
        request_id, kind = entry["request_id"], entry["kind"]
        if not isinstance(request_id, str):
            raise InvalidEntry("request_id", "a string")
        if kind == "call":
            _check_call(entry)
            if self._calls.setdefault(request_id, entry) != entry:
                self._shared.add(request_id)
        elif kind == "label":
            for key in _SCORES:
                _check_score(entry, key)
            self._labels[request_id] = entry
        else:
            self._add_feedback(request_id, entry)

    def join(self) -> JoinedLog:
        """The calls, with their labels and feedback."""
        calls = [
            self._join(request_id, call)
            for request_id, call in self._calls.items()
            if request_id not in self._shared
        ]
        strays = self._feedback.keys() - self._calls.keys()
        return JoinedLog(calls, len(strays) + len(self._shared))

    def _add_feedback(self, request_id: str, entry: Document) -> None:
        if not isinstance(entry.get("right"), bool):
            raise InvalidEntry("right", "true or false")
        older = self._feedback.get(request_id)
        if older is None or str(entry.get("time", "")) >= str(older.get("time", "")):
            self._feedback[request_id] = entry

    def _join(self, request_id: str, call: Document) -> Document:
        joined = {key: call[key] for key in _KEPT if key in call}
        if call.get("schema"):
            joined["response_format"] = {"type": "json_schema"}
        label, feedback = self._labels.get(request_id), self._feedback.get(request_id)
        if feedback is not None:
            joined["reported"] = feedback["right"]
        if label is None:
            return joined
        if "other_answer" in label:
            joined["other_answer"] = label["other_answer"]
        return joined | _score(call, label, feedback)


def _score(call: Document, label: Document, feedback: Document | None) -> dict[str, object]:
    scores = {key: label[key] for key in _SCORES}
    if feedback is None:
        return scores
    if label.get("same"):
        return dict.fromkeys(_SCORES, feedback["right"])
    answered = "large_score" if call.get("answered_by_large") else "small_score"
    return scores | {answered: feedback["right"]}


def _check_call(entry: Document) -> None:
    messages = entry.get("messages")
    if not isinstance(messages, list) or not messages:
        raise InvalidEntry("messages", "a list of messages")
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or not all(
            isinstance(message.get(key), str) for key in ("role", "content")
        ):
            raise InvalidEntry(f"messages[{index}]", "an object with `role` and `content`")
    for key in ("small_model", "large_model"):
        if not isinstance(entry.get(key, ""), str):
            raise InvalidEntry(key, "a string")


def _check_score(entry: Document, key: str) -> None:
    score = entry.get(key)
    if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
        raise InvalidEntry(key, "a number from 0 (wrong) to 1 (right)")
