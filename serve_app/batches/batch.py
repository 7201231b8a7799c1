"""The values that a batch is made of. Times are seconds since 1970."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

OUTPUT = "batch_output"
"""The purpose of the files that this service writes."""

BACKGROUND = "background"
"""The purpose of the file with the answer to a call that was made in the background."""
BATCH_PREFIX, BACKGROUND_PREFIX = "batch_", "resp_"
"""Batches that clients list have ids of the first kind, calls in the background of the second."""
BACKGROUND_LABEL = "(responses)"


class BatchStatus(StrEnum):
    """OpenAI's states of a batch."""

    VALIDATING = "validating"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether nothing will happen to the batch any more."""
        return self in ENDED


ENDED = frozenset(
    {BatchStatus.FAILED, BatchStatus.COMPLETED, BatchStatus.EXPIRED, BatchStatus.CANCELLED}
)


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of a tenant; its bytes are in the file store under `file_id`."""

    file_id: str
    tenant: str
    purpose: str
    name: str
    size_bytes: int
    created_at: float


@dataclass(frozen=True, slots=True)
class BatchOwner:
    """Who made a batch; what the owner may do is looked up by the roles when a line runs."""

    tenant: str
    key_id: str | None = None
    user: str | None = None
    roles: tuple[str, ...] = ()
    address: str | None = None


@dataclass(frozen=True, slots=True)
class LineFault:
    """What is wrong with a batch's file; `line` counts from 1, None for the file as a whole."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch. `began_at` holds the time at which each state began, by the name of the state."""

    batch_id: str
    owner: BatchOwner
    endpoint: str
    input_file_id: str
    created_at: float
    expires_at: float
    status: BatchStatus = BatchStatus.VALIDATING
    metadata: Mapping[str, str] | None = None
    began_at: Mapping[str, float] = field(default_factory=dict)
    total: int = 0
    completed: int = 0
    failed: int = 0
    output_file_id: str | None = None
    error_file_id: str | None = None
    faults: tuple[LineFault, ...] = ()


@dataclass(frozen=True, slots=True)
class BatchProgress:
    """The lines of a batch that has not ended: those that no worker has, those in the shards of
    workers, and those with a result. `waits` says whether the batch needs a worker, which a file
    that has not been checked also does."""

    batch_id: str
    created_at: float
    waits: bool
    waiting: int
    claimed: int
    completed: int
    failed: int

    @property
    def label(self) -> str:
        """Its name in metrics; background responses share one, because there are many."""
        return BACKGROUND_LABEL if self.batch_id.startswith(BACKGROUND_PREFIX) else self.batch_id


class Job(StrEnum):
    """The kinds of work that a batch needs."""

    VALIDATE = "validate"
    LINES = "lines"
    ASSEMBLE = "assemble"


@dataclass(frozen=True, slots=True)
class Shard:
    """Some lines of a batch's file: the lines from `line` on, in `size_bytes` from `offset` on.

    `lines` counts the lines that hold a call; empty lines do not count.
    """

    number: int
    line: int
    lines: int
    offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class WorkClaim:
    """Work that one worker has claimed. `fence` grows with each claim of the same work, so the
    ledger recognises a worker whose claim has gone to another one."""

    batch_id: str
    job: Job
    shard: Shard
    fence: int


@dataclass(frozen=True, slots=True)
class LineResult:
    """The end of one line, as it will stand in the output file or in the error file."""

    line: int
    ok: bool
    document: bytes
