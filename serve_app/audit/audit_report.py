"""Sums of an audit log: calls, errors, tokens and money, by what the operator asks for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, astuple, dataclass
from datetime import date
from enum import StrEnum
from pathlib import Path
from typing import Any

import orjson

from serve_app.audit.chain import NotALine, read_head
from serve_app.audit.files import find_logs

NONE = "-"
"""The group of calls that lack what they are grouped by, for example a key."""


class Group(StrEnum):
    """What calls can be summed by."""

    TENANT = "tenant"
    KEY = "key"
    TIER = "tier"
    DAY = "day"


_FIELDS = {Group.TENANT: "tenant", Group.KEY: "key_id", Group.TIER: "tier", Group.DAY: "time"}
DATE_CHARS = len("2026-01-31")
OK = "ok"
FREE = ("hit", "shared")


@dataclass(slots=True)
class Sums:
    """The sums of some calls. Money is in nanos; `saved_nanos` is what routing saved against the
    strongest tier for every call. `unpriced` counts calls without a price."""

    calls: int = 0
    errors: int = 0
    cached: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    draft_tokens: int = 0
    cost_nanos: int = 0
    saved_nanos: int = 0
    unpriced: int = 0

    def add(self, call: dict[str, Any]) -> None:
        """Add the record of one call."""
        self.calls += 1
        self.errors += call["outcome"] != OK
        self.cached += call["cache"] in FREE
        self.prompt_tokens += call["prompt_tokens"] or 0
        self.cached_tokens += call["cached_tokens"] or 0
        self.completion_tokens += call["completion_tokens"] or 0
        if call.get("draft_discarded"):
            self.draft_tokens += call["draft_prompt_tokens"] or 0
            self.draft_tokens += call["draft_completion_tokens"] or 0
        self._add_money(call["cost_nanos"], call["strong_cost_nanos"])

    def _add_money(self, cost: int | None, strong: int | None) -> None:
        if cost is None:
            self.unpriced += 1
            return
        self.cost_nanos += cost
        if strong is not None:
            self.saved_nanos += strong - cost


@dataclass(frozen=True, slots=True)
class Row:
    """The sums of one group, in one currency."""

    group: tuple[str, ...]
    currency: str
    sums: Sums


@dataclass(frozen=True, slots=True)
class Period:
    """The days that count, both included, in UTC; None: no bound."""

    since: date | None = None
    until: date | None = None

    def holds(self, time: str) -> bool:
        """Whether the time of a record lies within."""
        day = time[:DATE_CHARS]
        return not (self.since and day < self.since.isoformat()) and not (
            self.until and day > self.until.isoformat()
        )


def sum_calls(
    calls: Iterable[dict[str, Any]], groups: Sequence[Group], period: Period
) -> list[Row]:
    """The sums by the given groups, in the order of their names."""
    sums: dict[tuple[str, ...], Sums] = {}
    for call in calls:
        if period.holds(call["time"]):
            key = (call["currency"] or NONE, *(_group(call, group) for group in groups))
            sums.setdefault(key, Sums()).add(call)
    return [Row(key[1:], key[0], sums[key]) for key in sorted(sums)]


def total(rows: Sequence[Row]) -> list[Row]:
    """The sums of all rows, by currency."""
    totals: dict[str, Sums] = {}
    for row in rows:
        old = totals.setdefault(row.currency, Sums())
        pairs = zip(astuple(old), astuple(row.sums), strict=True)
        totals[row.currency] = Sums(*(a + b for a, b in pairs))
    return [Row((), currency, sums) for currency, sums in sorted(totals.items())]


def read_calls(directory: Path) -> Iterator[dict[str, Any]]:
    """The records of calls in a log; what `serve-app audit verify` would find is passed over.

    Raises:
        OSError, EOFError, zlib.error: a file cannot be read or decompressed.
    """
    for files in find_logs(directory).values():
        last = 0
        for file in files:
            if file.number == last:
                continue  # the compressed copy of the same file
            last = file.number
            for line in file.lines():
                call = _parse(line)
                if call is not None:
                    yield call


def render_row(row: Row, groups: Sequence[Group]) -> dict[str, Any]:
    """A row as a flat object, for JSON and CSV."""
    names = zip((group.value for group in groups), row.group, strict=False)
    return {**dict(names), "currency": row.currency, **asdict(row.sums)}


def _group(call: dict[str, Any], group: Group) -> str:
    value = call[_FIELDS[group]]
    if value is None:
        return NONE
    return str(value)[:DATE_CHARS] if group is Group.DAY else str(value)


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        if read_head(line)[1] != "call":
            return None
        call = orjson.loads(line)
    except (NotALine, orjson.JSONDecodeError):
        return None
    return call if isinstance(call, dict) and "currency" in call else None
