"""What an audit log says about itself, for metrics."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AuditState:
    """The counts since the start of one Router replica.

    `written` counts records on disk, `lost` calls that no record tells of, `refused` calls that the
    log refused because it could not record them. `waiting` records are not on disk yet. `failing`
    says that the last attempt to write has failed, or that too many records wait.
    """

    written: int = 0
    lost: int = 0
    refused: int = 0
    waiting: int = 0
    failing: bool = False
