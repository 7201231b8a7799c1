"""Events of batches and background responses that have ended, and who is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Protocol

import orjson

from serve_app.batches.batch import BACKGROUND_PREFIX, BATCH_PREFIX, Batch, BatchStatus
from serve_app.config.webhooks import WebhookConfig

RESPONSE_KINDS: Mapping[str, str] = {
    BatchStatus.FAILED: "failed",
    BatchStatus.EXPIRED: "failed",
    BatchStatus.CANCELLED: "cancelled",
}
"""How a background response ends whose batch of one call ends so. A batch that has completed has
an answer, which says it itself."""


@dataclass(frozen=True, slots=True)
class Notice:
    """One event for one receiver. `event_id` and `body` are the same at every attempt."""

    event_id: str
    hook: str
    tenant: str
    kind: str
    body: str
    created_at: float


@dataclass(frozen=True, slots=True)
class NoticeClaim:
    """An event that a sender has claimed, for its attempt number `tries`. Each claim raises the
    number, so a sender that is late is recognised by it."""

    notice: Notice
    tries: int


@dataclass(frozen=True, slots=True)
class WaitingEvents:
    """The events that a receiver has not got yet."""

    count: int
    oldest_at: float


class NotPosted(Exception):
    """The receiver has not answered; the message names the reason and nothing of the receiver's."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a receiver answers; its body is not read."""

    status: int
    retry_after_s: float | None = None

    @property
    def taken(self) -> bool:
        """Whether the receiver has the event."""
        return 200 <= self.status < 300


class Post(Protocol):
    """One receiver."""

    async def send(self, notice: Notice, now: float) -> Reply:
        """Post an event.

        Raises:
            NotPosted: there was no answer.
        """
        ...


class NoticeBook(Protocol):
    """The events that no receiver has confirmed. All of it blocks, and may raise LedgerUnavailable.

    The ledger adds events in the transaction that ends their batch.
    """

    def claim(self, hooks: Set[str], now: float, lease_s: float) -> NoticeClaim | None:
        """An event for one of the receivers whose time has come, and that no sender has."""
        ...

    def settle(self, claim: NoticeClaim) -> bool:
        """Forget an event; False if another sender has claimed it since."""
        ...

    def postpone(self, claim: NoticeClaim, due_at: float) -> None:
        """Let the next attempt be made at a time; a lost claim is ignored."""
        ...

    def waiting(self) -> Mapping[str, WaitingEvents]:
        """What waits, by receiver."""
        ...


Announce = Callable[[BatchStatus], Sequence[Notice]]
"""The events of a batch that ends so."""


def announce_nothing(status: BatchStatus) -> Sequence[Notice]:
    """No one is told."""
    return ()


def make_notices(
    hooks: Sequence[WebhookConfig], batch: Batch, status: BatchStatus, answered: str, now: float
) -> Sequence[Notice]:
    """The events of a batch that ends now; `answered` is the status of a background response."""
    kind = name_event(batch.batch_id, status, answered)
    event_id = name_id(batch.batch_id)
    event = {
        "id": event_id,
        "object": "event",
        "created_at": int(now),
        "type": kind,
        "data": {"id": batch.batch_id},
    }
    body = orjson.dumps(event).decode()
    tenant = batch.owner.tenant
    return [
        Notice(event_id, hook.name, tenant, kind, body, now)
        for hook in hooks
        if (not hook.events or kind in hook.events) and (not hook.tenants or tenant in hook.tenants)
    ]


def name_event(batch_id: str, status: BatchStatus, answered: str) -> str:
    """The type of the event."""
    if not batch_id.startswith(BACKGROUND_PREFIX):
        return f"batch.{status}"
    return f"response.{RESPONSE_KINDS.get(status, answered)}"


def name_id(batch_id: str) -> str:
    """The id of the one event of a batch."""
    return f"evt_{batch_id.removeprefix(BATCH_PREFIX).removeprefix(BACKGROUND_PREFIX)}"
