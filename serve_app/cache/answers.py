"""The step of the way of a call that answers repeated calls."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from serve_app.cache.complete import is_lasting, is_whole
from serve_app.cache.entry import Replay, StoredAnswer
from serve_app.cache.flight import Flight
from serve_app.cache.key import KeyMaker
from serve_app.cache.store import AnswerStore
from serve_app.config.cache import CacheConfig
from serve_app.core.call import CacheResult, CacheUse, Call, Endpoint, Record, Route
from serve_app.core.errors import GatewayError
from serve_app.core.headers import CACHE_HEADER
from serve_app.leases.tier import Answer
from serve_app.steps import Open


class ResponseCache:
    """Stored answers, and the calls in flight that others may share."""

    def __init__(self, config: CacheConfig, keys: KeyMaker, store: AnswerStore) -> None:
        self._config = config
        self._keys = keys
        self._store = store
        self._flights: dict[bytes, Flight] = {}

    def start(self) -> None:
        """Nothing runs in the background."""

    async def close(self) -> None:
        """Free the store; the flights end with the calls that read them."""
        await self._store.close()

    @asynccontextmanager
    async def answer(
        self, call: Call, record: Record, route: Route, begin: Open
    ) -> AsyncIterator[Answer]:
        """The stored answer, the answer of an identical call in flight, or the one of `begin`.

        Raises:
            GatewayError: no answer began.
        """
        if not is_cacheable(call):
            _note(record, CacheResult.BYPASS)
            async with begin() as answer:
                yield answer
            return
        key = self._keys.make(call, record.caller.tenant, route)
        fresh = call.cache_use is CacheUse.REFRESH
        entry = None if fresh else await self._store.get(key)
        if entry is not None:
            record.decision = entry.decision
            _note(record, CacheResult.HIT)
            yield Replay(entry)
            return
        async with self._fly(key, call, record, begin, fresh) as answer:
            yield answer

    @asynccontextmanager
    async def _fly(
        self, key: bytes, call: Call, record: Record, begin: Open, fresh: bool
    ) -> AsyncIterator[Answer]:
        """Read a flight: another call's if there is one, and otherwise one of this call's own.

        If another call's flight fails before its answer begins, this call does not fail with it,
        because the failure may be due to that call's deadlines.
        """
        while True:
            flight = None if fresh or not self._config.share_in_flight else self._flights.get(key)
            shared = flight is not None and flight.joinable
            if flight is None or not shared:
                flight = self._take_off(key, call, record, begin)
            reader = flight.join(record)
            try:
                try:
                    await reader.wait_for_head()
                except GatewayError:
                    if not shared:
                        raise
                    continue
                if shared:
                    record.decision = flight.owner.decision
                _note(record, CacheResult.SHARED if shared else CacheResult.MISS)
                yield reader
                return
            finally:
                await flight.leave(reader)

    def _take_off(self, key: bytes, call: Call, record: Record, begin: Open) -> Flight:
        def ended(flight: Flight) -> None:
            if self._flights.get(key) is flight:
                del self._flights[key]
            self._keep(key, call.endpoint, flight)

        most = self._config.answer_bytes_max
        flight = self._flights[key] = Flight(begin, record, keep_bytes_max=most, ended=ended)
        return flight

    def _keep(self, key: bytes, endpoint: Endpoint, flight: Flight) -> None:
        decision = flight.owner.decision
        if flight.owner.variant is not None:
            return  # It may be rolled back, and its answers would outlive it.
        if not (flight.complete and flight.whole and flight.status == 200):
            return
        content_type = dict(flight.headers).get(b"content-type", b"")
        if decision is None or not is_lasting(decision):
            return
        if is_whole(endpoint, content_type, flight.chunks):
            self._store.put(key, StoredAnswer(decision, content_type, flight.chunks))


def is_cacheable(call: Call) -> bool:
    """Whether the same call may get the same answer."""
    if call.cache_use is CacheUse.NONE:
        return False
    if call.endpoint.pools:
        return True
    if not call.endpoint.generates:
        return False
    return call.cache_use is CacheUse.WANTED or call.payload.deterministic


def _note(record: Record, result: CacheResult) -> None:
    record.cache = result
    record.headers.append((CACHE_HEADER, result.value.encode()))
