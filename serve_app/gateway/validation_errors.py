"""Translates pydantic's findings in vLLM's error messages into paths of fields and sentences.

vLLM passes on two forms: the `repr` of every finding on a line of its own, which repeats the
client's body, and pydantic's own report. In both forms the place of a finding names alternatives of
the schema (`ChatCompletionUserMessageParam`, `list[str]`) beside the fields of the request.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

FAULTS_MAX = 3
FINDINGS_MAX = 200

Place = tuple[str | int, ...]

HEADING = re.compile(r"^\d+ validation errors?\b")
QUOTED = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
REPR = re.compile(
    r"^  \{'type': '(?P<kind>\w+)', 'loc': \((?P<place>[^)\n]*(?:\(\)[^)\n]*)*)\), "
    rf"'msg': (?P<message>{QUOTED})",
    re.MULTILINE,
)
REPORT = re.compile(
    r"^(?P<place>\S[^\n]*)\n  (?P<message>[^\n]*?) \[type=(?P<kind>\w+)(?:, |\])", re.MULTILINE
)
PLACE_PART = re.compile(rf"(?P<text>{QUOTED})|" r"(?P<number>\d{1,9})")
INDEX = re.compile(r"[0-9]{1,9}")
FIELD = re.compile(r"[a-z][a-z0-9_]*")
ALTERNATIVE = re.compile(r"[A-Z]\w*")
TYPES = frozenset({"str", "int", "float", "bool", "bytes", "list", "tuple", "dict", "set", "none"})
WRAPPERS = frozenset({"body", "nullable", "chain", "default", "union"})
NO_FIELDS = TYPES | WRAPPERS
"""The words that pydantic puts into a place beside the fields, if they look like field names."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One field that is wrong; `path` is '' if the body as a whole is wrong."""

    path: str
    kind: str
    message: str

    @property
    def code(self) -> str:
        """OpenAI's code for it."""
        if self.kind == "missing":
            return "missing_required_parameter"
        return "invalid_type" if self.kind.endswith(("_type", "_parsing")) else "invalid_value"

    def render(self, *, anthropic: bool) -> str:
        """The sentence of either dialect."""
        if not self.path:
            return self.message
        if anthropic:
            dotted = self.path.replace("[", ".").replace("]", "")
            return f"{dotted}: {self.message}"
        if self.kind == "missing":
            return f"Missing required parameter: '{self.path}'."
        return f"Invalid value for '{self.path}': {self.message}."


def read_faults(message: str) -> list[Fault]:
    """The fields that a message reports as wrong, at most three; empty for any other message."""
    if not HEADING.match(message):
        return []
    found = [*_from_reprs(message), *_from_report(message)]
    merged: dict[str, Fault] = {}
    for place, kind, text in _likeliest(found):
        path = _path(place)
        known = merged.get(path)
        if known is None:
            merged[path] = Fault(path, kind, text)
        elif text not in known.message:
            merged[path] = Fault(path, known.kind, f"{known.message} or: {text}"[:400])
    innermost = [fault for fault in merged.values() if not _has_inner(fault.path, merged)]
    return innermost[:FAULTS_MAX]


def _has_inner(path: str, paths: Iterable[str]) -> bool:
    """Whether a finding lies deeper in the same field, which makes it the better of two
    alternatives."""
    return any(other != path and other.startswith((f"{path}.", f"{path}[")) for other in paths)


Finding = tuple[Place, str, str]


def _from_reprs(message: str) -> Iterator[Finding]:
    for match, _ in zip(REPR.finditer(message), range(FINDINGS_MAX), strict=False):
        place = tuple(_place_part(part) for part in PLACE_PART.finditer(match["place"]))
        yield place, match["kind"], _sentence(_unquote(match["message"]))


def _place_part(part: re.Match[str]) -> str | int:
    return int(part["number"]) if part["number"] else _unquote(part["text"])


def _unquote(literal: str) -> str:
    return re.sub(r"\\(.)", r"\1", literal[1:-1])


def _from_report(message: str) -> Iterator[Finding]:
    _, _, rest = message.partition("\n")
    for match, _ in zip(REPORT.finditer(rest), range(FINDINGS_MAX), strict=False):
        parts = match["place"].split(".")
        place = tuple(int(part) if INDEX.fullmatch(part) else part for part in parts)
        yield place, match["kind"], _sentence(match["message"])


def _sentence(text: str) -> str:
    text = text.removeprefix("Value error, ").partition(" (parameter=")[0]
    return text[:300].rstrip(".")


def _likeliest(findings: Sequence[Finding]) -> list[Finding]:
    """The alternative of a schema that the body comes closest to."""
    plain: list[Finding] = []
    branches: dict[Place, list[Finding]] = {}
    for finding in findings:
        branch = _branch(finding[0])
        (plain if branch is None else branches.setdefault(branch, [])).append(finding)
    closest = min(branches.values(), key=len, default=[])
    return [*plain, *closest]


def _branch(place: Place) -> Place | None:
    for index, part in enumerate(place):
        if isinstance(part, str) and ALTERNATIVE.fullmatch(part):
            return place[: index + 1]
    return None


def _path(place: Place) -> str:
    """The path in JavaScript's form, without an index before the first field (an unnamed list)."""
    path = ""
    for part in place:
        if isinstance(part, int):
            path += f"[{part}]" if path else ""
        elif FIELD.fullmatch(part) and part not in NO_FIELDS:
            path += f".{part}" if path else part
    return path
