"""The steps on the way of a call that a config may ask for, as the Protocols of their packages.

A step that the config does not ask for is None, and its package is not imported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from serve_app.config.app import AppConfig
from serve_app.config.prices import PricesConfig
from serve_app.config.runtime import RuntimeConfig
from serve_app.config.tiers import TierConfig
from serve_app.core.audit_state import AuditState
from serve_app.core.call import Call, Record, Reservation, Route
from serve_app.core.caller import Caller, Credentials
from serve_app.core.limit_use import LimitUse
from serve_app.core.trace import Trace
from serve_app.leases.tier import Answer

Open = Callable[[], AbstractAsyncContextManager[Answer]]
"""Begins the exchange with a tier."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the parts of a Router know beside their own config. `replica` is the Router's id."""

    app: AppConfig
    runtime: RuntimeConfig
    replica: str


class Part(Protocol):
    """A step with resources of its own."""

    def start(self) -> None:
        """Begin the work in the background, in the running event loop. May be called twice."""
        ...

    async def close(self) -> None:
        """Finish the work and free every resource."""
        ...


class Access(Part, Protocol):
    """Says who asks and what the caller may do."""

    async def authenticate(self, credentials: Credentials) -> Caller:
        """The caller behind the credentials.

        Raises:
            Unauthorized: the credentials are missing, malformed, unknown or no longer valid.
            Forbidden: the client's address may not call.
            AccessUnavailable: the source of keys cannot be reached.
        """
        ...

    def authorise(self, call: Call, caller: Caller) -> Call:
        """The call as the caller may make it: with its bound of output tokens.

        Raises:
            Forbidden: the caller may not make the call.
            InvalidField: the call asks for more tokens than the caller may.
        """
        ...

    def visible(self, caller: Caller, tiers: Sequence[TierConfig]) -> Sequence[TierConfig]:
        """The tiers that the caller may use, each with the models that the caller may name.

        Raises:
            Forbidden: there are none.
        """
        ...

    def renew(self, caller: Caller) -> Caller:
        """The caller of an earlier request, with the rights that its roles have now."""
        ...

    async def describe_keys(self) -> Sequence[Mapping[str, object]] | None:
        """The API keys without their secrets, for `/admin/keys`; None if they cannot be listed.

        Raises:
            AccessUnavailable: the source of keys cannot be reached.
        """
        ...


class Limiter(Part, Protocol):
    """Holds callers to their limits."""

    async def reserve(self, call: Call, record: Record, route: Route) -> Reservation:
        """Reserve what the call may use at most; `record.headers` gets the state of the limits.

        Raises:
            RateLimited: a limit of the caller does not allow the call now.
            LimitsUnavailable: the counters cannot be reached.
        """
        ...

    def budgets(self) -> Mapping[tuple[str, str], float]:
        """The spent share of the budgets of a day and a month, by tenant and kind."""
        ...

    async def describe(self, caller: Caller) -> Sequence[LimitUse]:
        """The limits of a caller, and how much of each is used.

        Raises:
            LimitsUnavailable: the counters cannot be read.
        """
        ...


@runtime_checkable
class DescribesLimits(Protocol):
    """A Limiter that can show the limits of a caller, for `/admin/limits`."""

    async def describe(self, caller: Caller) -> Sequence[object]:
        """The limits of a caller and their use, as dataclasses.

        Raises:
            LimitsUnavailable: the counters cannot be reached.
        """
        ...


class AnswerCache(Part, Protocol):
    """Answers a repeated call without an engine."""

    def answer(
        self, call: Call, record: Record, route: Route, begin: Open
    ) -> AbstractAsyncContextManager[Answer]:
        """The stored answer, the answer of an identical call in flight, or the one of `begin`.

        `record.cache` says which, and `record.headers` gets it as a header.
        """
        ...


class Audit(Part, Protocol):
    """Writes down every call."""

    def check(self) -> None:
        """Raise AuditUnavailable if calls must not be taken because they could not be recorded."""
        ...

    def watch(self, call: Call, record: Record, answer: Answer) -> Answer:
        """The answer, of which `record.content` gets a copy if the config keeps texts."""
        ...

    def add(self, record: Record) -> None:
        """Take the record of an ended call; must neither block nor raise."""
        ...

    def note(self, kind: str, fields: Mapping[str, object]) -> None:
        """Take a record of something that is no call; must neither block nor raise."""
        ...

    def state(self) -> AuditState:
        """What the log says about itself, for metrics."""
        ...


class Tracer(Part, Protocol):
    """Follows calls through the service, for a collector of traces."""

    def begin(self, traceparent: bytes | None) -> Trace:
        """The trace of a call that has arrived, as a part of the client's trace if it has one."""
        ...

    def end(self, record: Record, trace: Trace) -> None:
        """Take the trace of an ended call; must neither block nor raise."""
        ...


@dataclass(frozen=True, slots=True)
class Steps:
    """The steps that the config asks for."""

    access: Access | None = None
    limiter: Limiter | None = None
    cache: AnswerCache | None = None
    audit: Audit | None = None
    prices: PricesConfig | None = None
    tracer: Tracer | None = None
    batches: Part | None = None
    """Where files and batches are kept; `batches/store.py` has the only kind."""

    @property
    def parts(self) -> list[Part]:
        """The steps with resources of their own."""
        steps: list[Part | None] = [
            self.access,
            self.limiter,
            self.cache,
            self.audit,
            self.tracer,
            self.batches,
        ]
        return [step for step in steps if step is not None]


NO_STEPS = Steps()
