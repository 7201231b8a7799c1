"""Who asks, and what the caller may do."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field
from enum import StrEnum


class Priority(StrEnum):
    """The class of service of a caller's waiting calls."""

    INTERACTIVE = "interactive"
    BATCH = "batch"


@dataclass(frozen=True, slots=True)
class LineTurn:
    """How a line of a batch stands beside the calls of clients.

    For vLLM a call of a lower `rank` comes first; the calls of clients have 0. `adds_replicas` says
    whether autoscaling counts the line.
    """

    rank: int
    adds_replicas: bool = False


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a request brings to show who asks; none of it has been checked.

    `authorization` and `api_key` are the values of the headers `authorization` and `x-api-key`,
    None if the request lacks the header. `peer` is the address of the connection. `forwarded_for`
    is what a proxy in front says about the addresses before it. `certificate` is what the TLS
    terminator says about the client's certificate.
    """

    authorization: bytes | None = field(default=None, repr=False)
    api_key: bytes | None = field(default=None, repr=False)
    peer: str | None = None
    forwarded_for: bytes | None = None
    certificate: bytes | None = None

    @property
    def has_proof(self) -> bool:
        """Whether the request brings a key or a token."""
        return self.authorization is not None or self.api_key is not None


@dataclass(frozen=True, slots=True)
class Rights:
    """What a caller may do; None in a set's place means everything.

    `endpoints` holds paths, `tiers` the names of tiers, `models` the ids of models and adapters.
    `overrides` says whether the caller's `x-route-*` headers count, `objectives` which values of
    `x-route-objective` do. `output_tokens_max` bounds the tokens of one answer.
    """

    endpoints: Set[str] | None = None
    tiers: Set[str] | None = None
    models: Set[str] | None = None
    overrides: bool = True
    objectives: Set[str] | None = None
    output_tokens_max: int | None = None
    priority: Priority = Priority.INTERACTIVE
    feedback: bool = True
    dashboard: bool = False
    admin: bool = False


EVERYTHING = Rights()


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `key_id` names an API key and is no secret; None for other kinds of proof.

    `address` is the client's address behind all trusted proxies, None if it is not known. `turn` is
    None except for the owner of a batch whose line runs.
    """

    tenant: str
    key_id: str | None = None
    user: str | None = None
    roles: tuple[str, ...] = ()
    address: str | None = None
    rights: Rights = EVERYTHING
    turn: LineTurn | None = None


ANONYMOUS = Caller("anonymous")
"""The caller of every request where the config asks for no proof."""
