"""Stand-ins that implement the same Protocols as the real parts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from serve_app.access.identity import Identity
from serve_app.core.call import Record, TierState
from serve_app.core.caller import Credentials
from serve_app.core.chunks import Take
from serve_app.core.deadlines import Deadlines
from serve_app.core.errors import GatewayError, TooManyCalls, Unauthorized
from serve_app.core.load import TierLoad
from serve_app.leases.client import UpstreamRequest
from serve_app.leases.http1 import Address
from serve_app.leases.signature import LeaseSigner


class FakeAnswer:
    """An engine's answer from a script: chunks, then perhaps an error, then perhaps silence."""

    def __init__(
        self,
        chunks: Sequence[bytes],
        *,
        status: int = 200,
        content_type: bytes = b"application/json",
        headers: Sequence[tuple[bytes, bytes]] = (),
        error: GatewayError | None = None,
        hang: bool = False,
    ) -> None:
        self.status = status
        self.headers = [(b"content-type", content_type), (b"server", b"secret-host"), *headers]
        self._chunks = list(chunks)
        self._error = error
        self._hang = hang

    def divert(self, take: Take) -> None:
        """No chunk comes from a connection."""

    async def read(self) -> bytes:
        if self._chunks:
            return self._chunks.pop(0)
        if self._error is not None:
            raise self._error
        if self._hang:
            await asyncio.Event().wait()
        return b""


class FakeTier:
    """A tier that answers from a script and remembers what it was sent."""

    def __init__(self, answer: FakeAnswer | GatewayError | None = None) -> None:
        self.answer = answer or FakeAnswer([b"{}"])
        self.requests: list[UpstreamRequest] = []
        self.given_deadlines: list[Deadlines] = []
        self.open_exchanges = 0
        self.state = TierLoad()

    @property
    def down(self) -> bool:
        return self.state.down

    def load(self) -> TierLoad:
        return self.state

    @asynccontextmanager
    async def exchange(
        self, request: UpstreamRequest, deadlines: Deadlines
    ) -> AsyncIterator[FakeAnswer]:
        self.requests.append(request)
        self.given_deadlines.append(deadlines)
        if isinstance(self.answer, GatewayError):
            raise self.answer
        self.open_exchanges += 1
        try:
            yield self.answer
        finally:
            self.open_exchanges -= 1


class FakeIdentifier:
    """Knows callers by their bearer token or `x-api-key`, from a table."""

    def __init__(self, identities: Mapping[str, Identity]) -> None:
        self.identities = dict(identities)
        self.asked = 0
        self.error: Exception | None = None
        self.running = False

    def start(self) -> None:
        self.running = True

    async def close(self) -> None:
        self.running = False

    async def identify(self, credentials: Credentials) -> Identity:
        self.asked += 1
        if self.error is not None:
            raise self.error
        bearer = (credentials.authorization or b"").removeprefix(b"Bearer ")
        found = self.identities.get((bearer or credentials.api_key or b"").decode("latin-1"))
        if found is None:
            raise Unauthorized("unknown")
        return found

    async def describe_keys(self) -> Sequence[Mapping[str, object]]:
        return [{"key_id": name} for name in self.identities]


class FakeRecorder:
    """Keeps the records of ended calls."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def finish(self, record: Record) -> None:
        self.records.append(record)


class FakeReadiness:
    """Tiers in a given state."""

    def __init__(self, *, ready: bool = True) -> None:
        self.ready = ready

    async def tiers(self) -> Sequence[TierState]:
        status = "HEALTHY" if self.ready else "UPDATING"
        return [TierState("fast", "demo-fast", self.ready, int(self.ready), status)]


class FakeWatch:
    """Live numbers from a script."""

    def __init__(self, documents: Sequence[bytes], *, full: bool = False) -> None:
        self.documents = documents
        self.full = full

    async def follow(self) -> AsyncIterator[bytes]:
        if self.full:
            raise TooManyCalls(retry_after_s=30)
        for document in self.documents:
            yield document


@dataclass(frozen=True)
class FakeGrant:
    """A place on a replica, whose requests are signed only where a door looks."""

    lease_id: str
    address: Address
    signer: LeaseSigner | None = None

    def sign(self, path: bytes, draft_tokens: bytes, body_bytes: int) -> bytes:
        if self.signer is None:
            return self.lease_id.encode()
        return self.signer.sign(path, draft_tokens, body_bytes)


class FakeOpener:
    """Grants places at once, or only as many as there are permits."""

    def __init__(self, address: Address = ("127.0.0.1", 1), permits: int = 1_000_000) -> None:
        self.address = address
        self.permits = asyncio.Semaphore(permits)
        self.granted = 0
        self.error: GatewayError | None = None
        self.sessions: list[str | None] = []

    async def __call__(self, session: str | None = None) -> FakeGrant:
        self.sessions.append(session)
        await self.permits.acquire()
        if self.error is not None:
            raise self.error
        self.granted += 1
        return FakeGrant(f"lease-{self.granted - 1}", self.address)
