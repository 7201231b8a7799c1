"""What the ledger of files and batches can do, and how it fails. All of it blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from typing import Protocol

from serve_app.batches.batch import (
    Batch,
    BatchProgress,
    LineFault,
    LineResult,
    Shard,
    StoredFile,
    WorkClaim,
)
from serve_app.batches.notices import Announce, announce_nothing


class LedgerUnavailable(Exception):
    """The database cannot be reached, or its disk is full; nothing has changed."""


class ClaimLost(Exception):
    """The work has gone to another worker, or its batch was cancelled or has expired."""


class BatchLedger(Protocol):
    """Knows every file and batch, and which work is done, by whom and until when.

    Every method may raise LedgerUnavailable. `now` is in seconds since 1970.
    """

    def add_file(self, file: StoredFile) -> None:
        """A file is complete in the file store."""
        ...

    def find_file(self, tenant: str, file_id: str) -> StoredFile | None:
        """The tenant's file."""
        ...

    def list_files(
        self, tenant: str, *, purpose: str | None, after: str | None, limit: int, newest: bool
    ) -> Sequence[StoredFile]:
        """The tenant's files in the order of their making, from the one after `after` on."""
        ...

    def used_bytes(self, tenant: str) -> int:
        """The size of all files of a tenant."""
        ...

    def delete_file(self, tenant: str, file_id: str) -> bool:
        """Forget a file; False while a batch that has not ended reads the file."""
        ...

    def add_batch(self, batch: Batch) -> None:
        """A batch that must be validated first."""
        ...

    def find_batch(self, tenant: str, batch_id: str) -> Batch | None:
        """The tenant's batch."""
        ...

    def read_batch(self, batch_id: str) -> Batch:
        """The batch of a claim."""
        ...

    def list_batches(self, tenant: str, *, after: str | None, limit: int) -> Sequence[Batch]:
        """The tenant's batches, newest first, from the one after `after` on."""
        ...

    def cancel(self, tenant: str, batch_id: str, now: float) -> Batch | None:
        """Take all work from the workers of a batch that has not ended."""
        ...

    def delete_batch(self, tenant: str, batch_id: str) -> Sequence[str]:
        """Forget a batch in any state; returns the ids of its files, none if there is no such."""
        ...

    def expire(self, now: float) -> int:
        """Take all work from the workers of batches that are out of time; returns how many."""
        ...

    def claim(self, worker: str, now: float, lease_s: float) -> WorkClaim | None:
        """Some work that no worker has; None if there is none. Tenants take turns."""
        ...

    def renew(self, claim: WorkClaim, now: float, lease_s: float) -> None:
        """Keep claimed work for longer.

        Raises:
            ClaimLost: the work is not the worker's any more.
        """
        ...

    def release(self, claim: WorkClaim) -> None:
        """Give claimed work back undone; a lost claim is ignored."""
        ...

    def reject(
        self,
        claim: WorkClaim,
        faults: Sequence[LineFault],
        now: float,
        announce: Announce = announce_nothing,
    ) -> None:
        """The file is wrong, so the batch has failed; its events are kept with that.

        Raises:
            ClaimLost: the work is not the worker's any more.
        """
        ...

    def accept(self, claim: WorkClaim, shards: Sequence[Shard], now: float) -> None:
        """The file is right: its lines may be answered.

        Raises:
            ClaimLost: the work is not the worker's any more.
        """
        ...

    def done_lines(self, claim: WorkClaim) -> Set[int]:
        """The lines of a shard that have results."""
        ...

    def deliver(
        self, claim: WorkClaim, results: Sequence[LineResult], now: float, lease_s: float
    ) -> None:
        """Keep the results of lines, the first result of each line, and renew the claim.

        Raises:
            ClaimLost: the work is not the worker's any more; nothing is kept.
        """
        ...

    def results(self, batch_id: str, *, ok: bool) -> Iterator[tuple[int, bytes]]:
        """The results in the order of the lines."""
        ...

    def answered_lines(self, batch_id: str) -> Set[int]:
        """The lines of a batch that have been answered without an error."""
        ...

    def complete(
        self,
        claim: WorkClaim,
        output: StoredFile | None,
        errors: StoredFile | None,
        now: float,
        announce: Announce = announce_nothing,
    ) -> None:
        """The files are written: the batch has ended; its events are kept with that.

        Raises:
            ClaimLost: the work is not the worker's any more.
        """
        ...

    def progress(self, now: float) -> Sequence[BatchProgress]:
        """The batches that have not ended, the oldest first."""
        ...

    def unknown_files(self, file_ids: Sequence[str]) -> Sequence[str]:
        """Those of the ids that belong to no file, and are no input of a batch."""
        ...

    def forget(self, before: float) -> Sequence[str]:
        """Forget ended batches and unused files from before a time; returns the files' ids."""
        ...

    def close(self) -> None:
        """Free every resource."""
        ...
