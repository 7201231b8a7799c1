"""The records that wait for the disk, within bounds; what does not fit is counted."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from serve_app.core.call import Record
from serve_app.core.errors import AuditUnavailable

TEXT_BYTES_MAX = 64 * 1024 * 1024
"""The bytes of texts that may wait for the disk, beside the records."""


@dataclass(slots=True)
class Missed:
    """Calls without a record: those that were answered, and those that the log refused."""

    lost: int = 0
    refused: int = 0


class WaitingRecords:
    """One thread puts records in, another one takes them out.

    With `keeps_all`, records of calls that were let in are taken above the bound too: such calls
    are at most as many as may be in flight, because no further call is let in then.
    """

    def __init__(
        self, records_max: int, *, keeps_all: bool, text_bytes_max: int = TEXT_BYTES_MAX
    ) -> None:
        self._records_max = records_max
        self._text_bytes_max = text_bytes_max
        self._keeps_all = keeps_all
        self._records: deque[Record] = deque()
        self._notes: deque[tuple[str, Mapping[str, object]]] = deque(maxlen=records_max)
        self._text_bytes_in = self._text_bytes_out = 0  # each written by one thread only
        self._missed = Missed()
        self._told = Missed()

    def __len__(self) -> int:
        return len(self._records) + len(self._notes)

    @property
    def full(self) -> bool:
        """Whether no further calls should be let in."""
        texts = self._text_bytes_in - self._text_bytes_out
        return len(self._records) >= self._records_max or texts >= self._text_bytes_max

    def put(self, record: Record) -> None:
        """Take the record of an ended call, or count the call."""
        if record.code == AuditUnavailable.code:
            self._missed.refused += 1
        elif not self.full or (self._keeps_all and record.decision is not None):
            if record.content is not None:
                self._text_bytes_in += record.content.held_bytes
            self._records.append(record)
        else:
            self._missed.lost += 1

    def note(self, kind: str, fields: Mapping[str, object]) -> None:
        """Take a record of something that is no call; beyond the bound the oldest is dropped."""
        self._notes.append((kind, fields))

    def take_notes(self, count_max: int) -> list[tuple[str, dict[str, object]]]:
        """Remove the oldest records that are no calls."""
        count = min(count_max, len(self._notes))
        notes = [self._notes.popleft() for _ in range(count)]
        return [(kind, dict(fields)) for kind, fields in notes]

    def take(self, count_max: int) -> list[Record]:
        """Remove the oldest records."""
        count = min(count_max, len(self._records))
        records = [self._records.popleft() for _ in range(count)]
        self._text_bytes_out += sum(r.content.held_bytes for r in records if r.content is not None)
        return records

    @property
    def missed(self) -> Missed:
        """All calls without a record."""
        return Missed(self._missed.lost, self._missed.refused)

    def untold(self) -> Missed:
        """The calls without a record of which the log does not tell yet."""
        missed, told = self.missed, self._told
        return Missed(missed.lost - told.lost, missed.refused - told.refused)

    def tell(self, told: Missed) -> None:
        """The log tells of these calls now."""
        self._told.lost += told.lost
        self._told.refused += told.refused
