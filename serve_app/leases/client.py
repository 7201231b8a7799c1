"""One tier as the pipeline sees it: lease a replica, send HTTP to its engine, release the lease."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from contextvars import Context
from enum import Enum
from functools import partial
from typing import NamedTuple

from serve_app.config.fairness import FairnessConfig
from serve_app.config.hedging import HedgingConfig
from serve_app.config.runtime import LeaseConfig
from serve_app.core.call import Endpoint, Usage
from serve_app.core.chunks import Take
from serve_app.core.deadlines import Deadlines
from serve_app.core.errors import (
    DeadlineExceeded,
    GatewayError,
    TierOverloaded,
    TierUnavailable,
    UpstreamFailed,
)
from serve_app.core.headers import SPARE_HEADER, TRACEPARENT_HEADER, Headers
from serve_app.core.load import BreakerState, TierLoad
from serve_app.core.prefix import PREFIX_KEYS_HEADER, PrefixKeys, render_prefix_keys
from serve_app.core.residence import NOWHERE, Residence
from serve_app.core.trace import ExchangeTrace
from serve_app.leases.admission import Admission
from serve_app.leases.answers import LEASE_USAGE_HEADER, Refusal, parse_usage
from serve_app.leases.board import ReplicaBoard
from serve_app.leases.breaker import TierBreaker
from serve_app.leases.draft_report import DRAFT_TOKENS_HEADER
from serve_app.leases.hedging import HedgeFate, Hedging, race
from serve_app.leases.http1 import (
    Address,
    Connection,
    ConnectionBroken,
    ConnectionPool,
    Exchange,
    ExchangeTimeout,
)
from serve_app.leases.lease import Lease, Opener, RankedOpener
from serve_app.leases.load import LOAD_HEADER, EngineLoads, FirstTokens, parse_engine_load
from serve_app.leases.order import NO_CLAIM, ArrivalOrder, Claim, FairOrder, WaitingOrder
from serve_app.leases.pool import LeasePool
from serve_app.leases.prefix_choice import Prefix, PrefixChoice, PrefixPlan
from serve_app.leases.prefix_cost import PREFILL_TOKENS_PER_S, OwnChoice
from serve_app.leases.replica_states import ReplicaStates
from serve_app.leases.retries import RetryBudget
from serve_app.leases.spare_room import HELD_S, POLL_S, SpareRoom
from serve_app.leases.state_stream import StateStreams
from serve_app.leases.waiting import Waiter

LEASE_HEADER = b"x-lease-id"
LEASE_REFUSED_HEADER = b"x-lease-refused"
LEASE_PATH = "/lease"
"""A request to this path ends the lease that the request is sent under."""

LOAD_PATH = "/serve-app/load"
"""A request to this path, under any live lease, is answered with the replica's load."""

RESPONSES_PATH = Endpoint.RESPONSES.value.encode()

TELL_S = 2.0
"""The longest wait for an answer by the replica itself; then the Router gives up."""

PROBE_S = 1.0
"""How soon a tier that could not be reached is tried again."""

ATTEMPTS_MAX = 3
"""Leases that one call tries while no replica has begun to answer the call."""

FAILURES_MAX = 2
"""Engines that may answer one call with a 5xx: a call that fails everywhere is itself at fault."""


class Verdict(Enum):
    """The result of an attempt, from the head of its answer."""

    BEGUN = 1
    REFUSED = 2
    """The replica did not begin the call and did no work for it."""
    FAILED = 3
    LOST = 4
    """The replica or its engine is gone."""


class Upstream:
    """An engine's answer: its head is known, its body is read piece by piece."""

    __slots__ = ("_exchange", "_note_broken", "_note_first", "headers", "status")

    def __init__(
        self,
        exchange: Exchange,
        note_first: Callable[[], None] | None,
        note_broken: Callable[[], None],
    ) -> None:
        self._exchange = exchange
        self._note_broken = note_broken
        self._note_first = note_first
        self.status = exchange.status
        self.headers: Headers = exchange.headers

    async def read(self) -> bytes:
        """The body bytes that have come since the last call, b'' after the end of the body.

        Raises:
            DeadlineExceeded: the next bytes did not come in time.
            UpstreamFailed: the engine broke off.
        """
        try:
            chunk = await self._exchange.read()
        except ExchangeTimeout as error:
            raise DeadlineExceeded(error.limit, error.seconds) from None
        except ConnectionBroken:
            self._note_broken()
            raise UpstreamFailed from None
        if self._note_first is not None:
            self._note_first()
            self._note_first = None
        return chunk

    def divert(self, take: Take) -> None:
        """Offer the chunks that come from now on to `take` first."""
        self._exchange.divert(take)


class Attempt:
    """One request on one replica, from its lease to the answer's last byte.

    The lease and the connection are released as soon as the engine has sent its last byte, even if
    the client reads slowly.
    """

    def __init__(
        self,
        leases: LeasePool,
        connections: ConnectionPool,
        lease: Lease,
        request: UpstreamRequest,
        *,
        pays: bool = True,
    ) -> None:
        """`pays`: the call is charged for the attempt; of a hedged call, for one attempt only."""
        self._leases = leases
        self._connections = connections
        self._request = request
        self._connection: Connection | None = None
        self._exchange: Exchange | None = None
        self._held = True
        self.lease = lease
        self.pays = pays
        self.began_at = lease.used_since
        self.charged = lease.charged
        """The claim of a call that had to wait; the place may serve another call before the end."""

    async def send(self, deadlines: Deadlines, *, until_first: bool = False) -> Exchange:
        """Send the request and wait for the head of the answer, and for its first bytes if asked.

        Raises:
            ConnectionBroken: the replica was not reached, or was lost before that.
            ExchangeTimeout: neither came in time.
        """
        request = self._request
        head_at = deadlines.head_at(stream=request.stream)
        self._connection = await self._connections.take(self.lease.address, head_at)
        self._exchange = self._connection.begin(
            request.render(self.lease),
            deadlines,
            self._complete,
            stream=request.stream,
            silent=request.silent,
        )
        await self._exchange.head()
        if until_first and self._exchange.status < 300:
            await self._exchange.first()
        return self._exchange

    def _complete(self) -> None:
        assert self._exchange is not None, "it has just been completed"
        assert self._connection is not None, "it has just carried the exchange"
        clean = self._connections.give(self.lease.address, self._connection)
        failed = is_failure(self._exchange.status) or find_refusal(self._exchange) is not None
        self._release(reusable=clean and not failed)

    def _release(self, *, reusable: bool) -> None:
        if self._held:
            self._held = False
            self._leases.release(self.lease, reusable=reusable)

    def drop(self) -> None:
        """End an attempt that got no answer."""
        if self._exchange is not None:
            self._exchange.abandon()
        elif self._connection is not None:
            self._connection.close()
        self._release(reusable=False)

    def cut(self) -> None:
        """End an attempt whose answer is not complete; a complete answer is left alone.

        The engine stops, and its replica reports how far the answer had come.
        """
        if self._held and self._exchange is not None and self.pays:
            self.lease.on_ended = self._request.expect_usage()
        if self._held:
            self.drop()

    def decline(self) -> None:
        """Give the lease back unused."""
        self._release(reusable=True)


class Tried(NamedTuple):
    """What came of an attempt; `exchange` is None if the replica has not begun the call."""

    attempt: Attempt
    verdict: Verdict
    exchange: Exchange | None


class TierClient:
    """The replicas of one tier."""

    def __init__(
        self,
        name: str,
        opener: Opener,
        leases: LeaseConfig,
        *,
        asks_by_session: bool = False,
        retries: RetryBudget | None = None,
        board: ReplicaBoard | None = None,
        by_prefix: RankedOpener | None = None,
        room: SpareRoom | None = None,
    ) -> None:
        """`retries` is shared by the tiers of a Router; None: the tier has a budget of its own.
        `board` says where the replicas tell their state, after `start`. `by_prefix` asks
        Ray for the replica that would begin an answer first; None: Ray chooses by other rules.
        Lines of batches wait for `room`; None: they ask for a place like other calls."""
        self.name = name
        self._unreachable = False
        """No replica could be reached; a probe finds out when a replica can be reached again."""
        self._breaker = TierBreaker()
        self._retries = retries or RetryBudget()
        self._hedging: Hedging | None = None
        self.watches_load = False
        """Whether the Router measures waits, and reads the loads in the heads of answers."""
        self._config_watches = self._is_watched = False
        self._first_tokens = FirstTokens()
        self._engines = EngineLoads()
        self._state_of = ReplicaStates(self._engines)
        self._room = room
        self._paced_until = float("-inf")
        """When the engines have read the prompt of the newest line, if each reads its share."""
        board = self._board = board or ReplicaBoard()
        self._streams = StateStreams(board, self._state_of)
        self._fairness: FairnessConfig | None = None
        self._probe: asyncio.Task[None] | None = None
        self._probe_waits = False
        self._leases = LeasePool(
            opener,
            self._end_soon,
            reuse_s=leases.reuse_s,
            age_max_s=leases.age_max_s,
            session_s=leases.session_s,
            asks_by_session=asks_by_session,
            ranked=by_prefix,
        )
        self._admission = Admission(self._leases)
        self.choice: PrefixChoice | None = None
        if by_prefix is not None:
            self.choice = PrefixChoice(
                board, self._state_of, self._leases.in_use_at, self._is_avoided
            )
        self._connections = ConnectionPool()
        self._ending: set[asyncio.Task[None]] = set()

    @property
    def down(self) -> bool:
        """Whether no replica could be reached, or too many calls failed on the engines."""
        now = asyncio.get_running_loop().time()
        return self._unreachable or self._breaker.breaker.avoided(now)

    @property
    def open_leases(self) -> int:
        """Places held on the tier's replicas."""
        return self._leases.open_leases

    @property
    def waiting(self) -> int:
        """Calls that wait for a place."""
        return self._leases.waiting - self._probe_waits

    def load(self) -> TierLoad:
        """The known load of the tier at this moment; costs microseconds and sends no request."""
        now = asyncio.get_running_loop().time()
        ongoing, waiting = self._leases.in_use, self.waiting
        engines = self._engines.total(now)
        # Some of the calls that wait in the engines belong to other Routers.
        ours = engines.queued * min(1.0, ongoing / max(engines.running + engines.queued, 1))
        told = engines.replicas > 0
        return TierLoad(
            down=self.down,
            waiting=waiting,
            ongoing=ongoing,
            first_token_s=self._first_tokens.estimate(now, waiting + ours),
            replicas=engines.replicas if told else None,
            running=engines.running if told else None,
            queued=engines.queued if told else None,
            kv_free_ratio=engines.kv_free_ratio,
            breaker=self._state(now),
            avoided=self._leases.penalties.count(now),
            oldest_wait_s=self._leases.oldest_wait_s if waiting else 0.0,
        )

    def residence(self, prefix: Prefix) -> Residence:
        """What the tier's prefix caches save of a prompt, in seconds of a replica."""
        if self.choice is None:
            return NOWHERE
        now = asyncio.get_running_loop().time()
        return self.choice.residence(prefix.keys(), prefix.prompt_tokens, now)

    def _is_avoided(self, address: Address) -> bool:
        return self._leases.penalties.active(address, asyncio.get_running_loop().time())

    def _plan(self, request: UpstreamRequest, now: float) -> PrefixPlan | None:
        """Which replica would be good for the call; None if its prompt does not choose."""
        if self.choice is None or request.prefix is None:
            return None
        if request.keys is None:
            request.keys = request.prefix.keys()
        if not request.keys.keys and request.session is not None:
            return None
        return self.choice.plan(request.keys, request.prefix.prompt_tokens, now)

    def _state(self, now: float) -> BreakerState:
        return BreakerState.OPEN if self._unreachable else self._breaker.breaker.state(now)

    def configure(
        self,
        leases: LeaseConfig,
        *,
        watches_load: bool = False,
        fairness: FairnessConfig | None = None,
        hedging: HedgingConfig | None = None,
    ) -> None:
        """Take new settings; leases in use keep their old settings."""
        if fairness != self._fairness:
            self._fairness = fairness
            self._leases.use_order(make_order(fairness))
        self._leases.reuse_s = leases.reuse_s
        self._leases.age_max_s = leases.age_max_s
        self._leases.sessions.kept_s = leases.session_s
        self._config_watches = watches_load
        self.watches_load = watches_load or self._is_watched
        self._use_hedging(hedging)

    def _use_hedging(self, config: HedgingConfig | None) -> None:
        if config is None or not config.covers(self.name):
            self._hedging = None
        elif self._hedging is None:
            self._hedging = Hedging(config, self._retries)
        else:
            self._hedging.configure(config)

    def take_hedges(self) -> Counter[HedgeFate]:
        """What became of the late calls since this was last asked."""
        if self._hedging is None:
            return Counter()
        fates, self._hedging.fates = self._hedging.fates, Counter()
        return fates

    def watch(self, *, on: bool) -> None:
        """Measure waits from now on, whether or not the config asks for it."""
        self._is_watched = on
        self.watches_load = on or self._config_watches

    def engine_reports(self) -> Sequence[tuple[str, int, int, float | None]]:
        """The newest reports of the engines; see `EngineLoads.reports`."""
        return self._engines.reports(asyncio.get_running_loop().time())

    def start(self) -> None:
        """Read the state of every replica from now on, in the running event loop."""
        self._streams.start()

    def close(self) -> None:
        """End all leases that no call is using."""
        self._streams.close()
        if self._probe is not None:
            self._probe.cancel()
        self._leases.close()
        self._connections.close()

    @asynccontextmanager
    async def exchange(
        self, request: UpstreamRequest, deadlines: Deadlines
    ) -> AsyncIterator[Upstream]:
        """Send one request to a replica of the tier; closing the block also ends the request there.

        If a replica has not begun to answer, another replica is tried. After the head of an answer
        nothing is tried again. The status of the answer is a 2xx or a 4xx.

        Raises:
            WouldBeLate: the first token would come after its deadline.
            TierOverloaded: no place came free in time, or the engines' own queues are full.
            TierUnavailable: no replica could be reached.
            UpstreamFailed: engines answered that they had failed.
            DeadlineExceeded: no answer began in time.
        """
        plan = self._plan(request, asyncio.get_running_loop().time())
        self._admission.check(request.claim, deadlines, promised_s(plan))
        self._retries.note_call()
        if self._hedging is not None and request.may_run_twice:
            self._hedging.note_call()
        self._breaker.breaker.begin(asyncio.get_running_loop().time())
        if self.watches_load:
            self._first_tokens.begin(request, asyncio.get_running_loop().time())
        try:
            attempt, exchange = await self._begin(request, deadlines, plan)
            counts = exchange.status < 400
            if not counts:
                self._forget_first(request)
            try:
                yield Upstream(
                    exchange,
                    partial(self._note_first, request) if counts else None,
                    partial(self._note_fault, attempt.lease.address),
                )
            finally:
                attempt.cut()
                self._correct(attempt.charged, request.usage)
        finally:
            self._forget_first(request)

    def _correct(self, charged: Claim | None, usage: Usage | None) -> None:
        """Charge a call that had to wait for what it has cost, if its engine said so."""
        if charged is None or usage is None or usage.completion_tokens is None:
            return
        self._leases.correct(charged, (usage.prompt_tokens or 0) + usage.completion_tokens)

    def _end_choice(self, request: UpstreamRequest) -> None:
        if request.choice is not None and self.choice is not None:
            self.choice.end(request.choice)

    def _note_first(self, request: UpstreamRequest) -> None:
        self._end_choice(request)
        now = asyncio.get_running_loop().time()
        self._first_tokens.end(request, now)
        self._admission.firsts.end(request, now)

    def _forget_first(self, request: UpstreamRequest) -> None:
        self._end_choice(request)
        self._first_tokens.forget(request)
        self._admission.firsts.forget(request)

    async def _begin(
        self, request: UpstreamRequest, deadlines: Deadlines, plan: PrefixPlan | None
    ) -> tuple[Attempt, Exchange]:
        failed: dict[Address, int] = {}
        verdict = Verdict.REFUSED
        for _ in range(ATTEMPTS_MAX):
            lease = await self._acquire(request, deadlines, plan)
            plan = None  # The next attempt makes its own.
            attempt = Attempt(self._leases, self._connections, lease, request)
            if lease.address in failed or not self._may_send(verdict):
                attempt.decline()
                break
            self._watch(request)
            if request.trace is not None:
                request.trace.leased_at = time.time()
            if self._hedging is None or not request.may_run_twice:
                trials = [await self._try(attempt, deadlines)]
            else:
                trials = await self._hedge(self._hedging, attempt, request, deadlines)
            verdict = trials[0].verdict
            for trial in trials:
                if trial.exchange is None:
                    continue
                if trial.verdict is Verdict.BEGUN:
                    return trial.attempt, trial.exchange
                failed[trial.attempt.lease.address] = trial.exchange.status
            if len(failed) >= FAILURES_MAX:
                break
        raise self._give_up(list(failed.values()))

    async def _hedge(
        self, hedging: Hedging, attempt: Attempt, request: UpstreamRequest, deadlines: Deadlines
    ) -> list[Tried]:
        """What came of an attempt, and of a second attempt if the first took long."""
        late_after_s = hedging.late_after_s()
        if late_after_s is None:
            trials = [await self._try(attempt, deadlines, until_first=True)]
        else:
            trials = await self._race(hedging, attempt, request, deadlines, late_after_s)
        self._note_times(hedging, attempt, trials[-1])
        return trials

    async def _race(
        self,
        hedging: Hedging,
        attempt: Attempt,
        request: UpstreamRequest,
        deadlines: Deadlines,
        late_after_s: float,
    ) -> list[Tried]:
        hedge: list[Attempt] = []

        async def second() -> Tried | None:
            lease = await self._spare_lease(hedging, attempt)
            if lease is None:
                return None
            hedge.append(Attempt(self._leases, self._connections, lease, request, pays=False))
            hedge[0].charged = attempt.charged
            return await self._try(hedge[0], deadlines, until_first=True)

        def wins(trial: Tried | None) -> bool:
            if trial is None or trial.verdict is not Verdict.BEGUN:
                return False
            for other in (attempt, *hedge):
                other.pays = other is trial.attempt
            return True

        trials: list[Tried | None] = []
        try:
            trials = await race(
                partial(self._try, attempt, deadlines, until_first=True),
                second,
                late_after_s,
                wins=wins,
                discard=drop_trial,
            )
        except BaseException:
            # The call's usage is expected before its block ends, and the runs end a moment later.
            for tried in (attempt, *hedge):
                tried.cut()
            raise
        finally:
            if hedge:
                hedging.fates[judge_hedge(hedge[0], trials)] += 1
        return [trial for trial in trials if trial is not None]

    async def _spare_lease(self, hedging: Hedging, attempt: Attempt) -> Lease | None:
        """A place on another replica for a call that is late, None if no hedge is to be sent."""
        now = asyncio.get_running_loop().time()
        if not hedging.affordable():
            hedging.fates[HedgeFate.NO_BUDGET] += 1
            return None
        lease = None
        if not self.down and self._engines.total(now).queued == 0:
            lease = await self._leases.acquire_elsewhere(attempt.lease.address)
        if lease is None:
            hedging.fates[HedgeFate.NO_PLACE] += 1
        else:
            hedging.spend()
        return lease

    def _note_times(self, hedging: Hedging, first: Attempt, last: Tried) -> None:
        if (
            last.verdict is not Verdict.BEGUN
            or last.exchange is None
            or last.exchange.status >= 400
        ):
            return
        now = asyncio.get_running_loop().time()
        hedging.note_first(now - first.began_at)
        if last.attempt is not first:
            hedging.note_first(now - last.attempt.began_at)

    def _may_send(self, last: Verdict) -> bool:
        """Whether a call may be sent after that verdict about its last attempt."""
        return last is Verdict.REFUSED or self._retries.spend()

    def _watch(self, request: UpstreamRequest) -> None:
        if request.opens_with_token:
            self._admission.firsts.begin(request, asyncio.get_running_loop().time())
        if self.watches_load and not request.opens_with_token:
            self._first_tokens.forget(request)

    async def _try(
        self, attempt: Attempt, deadlines: Deadlines, *, until_first: bool = False
    ) -> Tried:
        """The exchange with the answer's head, and with its first bytes if asked."""
        address = attempt.lease.address
        try:
            exchange = await attempt.send(deadlines, until_first=until_first)
        except ConnectionBroken as error:
            attempt.drop()
            self._leases.lose(address)
            if error.begun:
                self._note_fault(address)
            return Tried(attempt, Verdict.LOST, None)
        except ExchangeTimeout as error:
            attempt.cut()
            raise DeadlineExceeded(error.limit, error.seconds) from None
        except BaseException:
            attempt.cut()
            raise
        verdict = self._judge(exchange, address)
        if verdict is not Verdict.BEGUN:
            attempt.drop()
        kept = verdict not in (Verdict.REFUSED, Verdict.LOST)
        return Tried(attempt, verdict, exchange if kept else None)

    def _judge(self, exchange: Exchange, address: Address) -> Verdict:
        if self.watches_load:
            self._note_load(address, exchange)
        if is_failure(exchange.status):
            self._note_fault(address)
            return Verdict.FAILED
        reason = find_refusal(exchange)
        if reason is None:
            self._note_answer(address, exchange.status)
            return Verdict.BEGUN
        if reason == Refusal.ENGINE.value:
            self._note_fault(address)
            return Verdict.LOST
        if reason == Refusal.LEASE.value:
            # The replica may have ended all of its leases at once.
            self._leases.drop_idle(address)
        else:
            self._leases.avoid(address)
        return Verdict.REFUSED

    def _note_fault(self, address: Address) -> None:
        """An engine has failed at a call."""
        self._leases.avoid(address)
        self._breaker.note(asyncio.get_running_loop().time(), failed=True)

    def _note_answer(self, address: Address, status: int) -> None:
        """A replica can be reached. An answer of 4xx says nothing about the engine's health."""
        self._unreachable = False
        if status < 400:
            self._leases.penalties.clear(address)
            self._breaker.note(asyncio.get_running_loop().time(), failed=False)

    def _give_up(self, statuses: list[int]) -> GatewayError:
        """The error of a call that no replica has begun to answer."""
        if statuses:
            return TierOverloaded(retry_after_s=5) if 503 in statuses else UpstreamFailed()
        self._doubt()
        return TierUnavailable(retry_after_s=1)

    def _doubt(self) -> None:
        """Count the tier as down, unless calls are using replicas that have not failed."""
        if not self._leases.serving(asyncio.get_running_loop().time()):
            self._mark_down()

    async def _acquire(
        self, request: UpstreamRequest, deadlines: Deadlines, plan: PrefixPlan | None
    ) -> Lease:
        clock = asyncio.get_running_loop().time
        began_at = clock()
        place_at = deadlines.place_at(began_at, stream=request.stream)
        plan = plan or self._plan(request, began_at)
        in_time_at = self._admission.place_at(deadlines, promised_s(plan))
        try:
            async with asyncio.timeout_at(min(place_at, in_time_at)):
                if request.claim.spare and self._room is not None:
                    await self._wait_for_room(self._room, request)
                lease = await self._leases.acquire(
                    request.session,
                    patience_s=request.patience_s,
                    claim=request.claim,
                    ranking=None if plan is None else plan.ranking,
                )
            if plan is not None and self.choice is not None:
                self._end_choice(request)
                request.choice = self.choice.note(plan, lease.address, clock())
            return lease
        except TimeoutError:
            if in_time_at < place_at:
                raise self._admission.missed(request.claim, promised_s(plan)) from None
            raise deadlines.no_place(clock(), stream=request.stream) from None
        except TierUnavailable:
            self._doubt()
            raise
        finally:
            deadlines.spend_on_place(clock() - began_at)

    async def _wait_for_room(self, room: SpareRoom, request: UpstreamRequest) -> None:
        held_until = asyncio.get_running_loop().time() + HELD_S
        # Room comes from calls here, engines elsewhere and Ray's thread: no one event tells of it.
        while pause_s := self._pause_for_room(room, held_until, request):  # noqa: ASYNC110
            await asyncio.sleep(pause_s)
        if request.prefix is not None:
            loads = self._state_of.loads.values()
            per_s = sum(load.prefill_tokens_per_s for load in loads) or PREFILL_TOKENS_PER_S
            now = asyncio.get_running_loop().time()
            self._paced_until = now + request.prefix.prompt_tokens / per_s

    def _pause_for_room(
        self, room: SpareRoom, held_until: float, request: UpstreamRequest
    ) -> float:
        """Seconds until a line looks for room again; 0: there is room."""
        now, urgent = asyncio.get_running_loop().time(), not request.claim.batch
        if not room.has_room(
            replicas=len(self._board.seats),
            calls=max(self._leases.in_use, self._engines.total(now).calls),
            waiting=self.waiting,
            reading=self._admission.firsts.pending if now < held_until else 0,
            urgent=urgent,
        ):
            return POLL_S
        return 0.0 if urgent else min(POLL_S, max(0.0, self._paced_until - now))

    def _mark_down(self) -> None:
        """Mark the tier as down until the probe or another call reaches a replica."""
        self._unreachable = True
        if self._probe is None:
            loop = asyncio.get_running_loop()
            self._probe = loop.create_task(self._probe_until_up(), context=Context())

    async def _probe_until_up(self) -> None:
        try:
            reached = await self._reach()
            while self._unreachable and not reached:
                await asyncio.sleep(PROBE_S)
                reached = await self._reach()
            self._unreachable = False
        finally:
            self._probe = None

    async def _reach(self) -> bool:
        """Wait for a place, as calls do, and send the replica a request of its own."""
        self._probe_waits = True
        try:
            lease = await self._leases.acquire()
        except GatewayError:
            return False
        finally:
            self._probe_waits = False
        reached = False
        try:
            reached = await self._tell(lease, LOAD_PATH) is not None
        finally:
            if not reached:
                self._leases.drop_idle(lease.address)
            self._leases.release(lease, reusable=reached)
        return reached

    def _end_soon(self, lease: Lease) -> None:
        task = asyncio.get_running_loop().create_task(self._end(lease), context=Context())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _end(self, lease: Lease) -> None:
        # A replica that cannot be reached ends the lease itself when the lease has been idle for
        # long.
        headers: Headers | None = None
        try:
            headers = await self._tell(lease, LEASE_PATH)
        finally:
            if lease.on_ended is not None:
                lease.on_ended(headers or [])

    async def _tell(self, lease: Lease, path: str) -> Headers | None:
        """Send a request to the replica itself: the headers of the answer, None if it failed."""
        try:
            connection = await self._connections.take(lease.address)
        except ConnectionBroken:
            return None
        now = asyncio.get_running_loop().time()
        deadlines = Deadlines(now, place_s=0, first_byte_s=TELL_S, gap_s=TELL_S, total_s=TELL_S)
        exchange: Exchange | None = None
        try:
            exchange = connection.begin(
                _render(path.encode(), lease, b"", b"", b"", b""), deadlines, stream=True
            )
            while await exchange.read():
                pass
        except (ConnectionBroken, ExchangeTimeout):
            return None
        else:
            self._note_load(lease.address, exchange)
            return exchange.headers if exchange.status == 200 else None
        finally:
            self._connections.give(lease.address, connection)

    def _note_load(self, address: Address, exchange: Exchange) -> None:
        value = find_header(exchange.headers, LOAD_HEADER)
        load = None if value is None else parse_engine_load(value)
        if load is not None:
            self._engines.note(address, load, asyncio.get_running_loop().time())


def promised_s(plan: PrefixPlan | None) -> float | None:
    """The time to the first token that the replicas promise, None if they do not."""
    return None if plan is None else plan.first_token_s


def drop_trial(trial: Tried | None) -> None:
    """End an attempt whose answer came too late."""
    if trial is not None:
        trial.attempt.drop()


def judge_hedge(hedge: Attempt, trials: Sequence[Tried | None]) -> HedgeFate:
    """What became of a hedge, by the results of the race; no results: the call was cancelled."""
    own = [trial for trial in trials if trial is not None and trial.attempt is hedge]
    if not own:
        return HedgeFate.LOST
    return HedgeFate.WON if own[0].verdict is Verdict.BEGUN else HedgeFate.FAILED


def make_order(fairness: FairnessConfig | None) -> WaitingOrder[Waiter]:
    """The order of waiting calls that a config asks for."""
    if fairness is None:
        return ArrivalOrder()
    return FairOrder(time.monotonic, fairness.batch_wait_max_s, fairness.burst_tokens)


def is_failure(status: int) -> bool:
    """Whether the status is a failure of the engine: neither a 2xx nor a 4xx."""
    return not (200 <= status < 300 or 400 <= status < 500)


def find_refusal(exchange: Exchange) -> bytes | None:
    """Why the replica has not begun the call, None if the call has begun."""
    return find_header(exchange.headers, LEASE_REFUSED_HEADER) if exchange.status == 403 else None


def find_header(headers: Headers, name: bytes) -> bytes | None:
    """The value of a header, None if the header is missing."""
    for header, value in headers:
        if header == name:
            return value
    return None


class UpstreamRequest:
    """A request that can be rendered for any replica.

    `patience_s` is how long the request waits for a tier on which this Router holds no place at
    all; None: as long as for a full tier. `session` is the hash of the conversation that the
    request belongs to. `stream` says that the answer's head comes before the answer is complete.
    `draft_tokens` asks for a report on the first tokens of a draft; 0 for an answer that is not
    judged. `silent` says that the answer may pause between its head and its end. `usage` is filled
    if the answer is cut off. `claim` says whose turn it is where calls wait. `caller` names who
    asks, None for this service's own requests. `prefix` tells the beginnings of the prompt.
    `variant` is set by a tier with variants: the name of the variant that answers, None for the
    tier's own engine.
    """

    __slots__ = (
        "_body",
        "_draft_tokens",
        "_path",
        "caller",
        "choice",
        "claim",
        "keys",
        "patience_s",
        "prefix",
        "request_id",
        "session",
        "settling",
        "silent",
        "stream",
        "trace",
        "traceparent",
        "usage",
        "variant",
    )

    def __init__(
        self,
        path: str,
        body: bytes,
        request_id: str,
        *,
        stream: bool,
        patience_s: float | None = None,
        session: str | None = None,
        draft_tokens: int = 0,
        silent: bool = False,
        usage: Usage | None = None,
        claim: Claim = NO_CLAIM,
        caller: str | None = None,
        prefix: Prefix | None = None,
    ) -> None:
        self.caller = caller
        self.prefix = prefix
        self.choice: OwnChoice | None = None
        self.keys: PrefixKeys | None = None
        """The keys of the prompt, made when a tier needs them."""
        self.variant: str | None = None
        self.claim = claim
        self.trace: ExchangeTrace | None = None
        self.traceparent = b""
        """The value of the header by which the engine's spans belong to the trace; b'': none."""
        self.patience_s = patience_s
        self.session = session
        self._path = path.encode()
        self._body = body
        self.request_id = request_id
        self._draft_tokens = b"%d" % draft_tokens if draft_tokens else b""
        self.stream = stream
        self.silent = silent
        self.usage = usage
        self.settling: asyncio.Future[None] | None = None
        """Done when the replica of a cut-off answer has reported the usage, or cannot report it."""

    def expect_usage(self) -> Callable[[Headers], None]:
        """The callback that takes the headers of the replica's answer to the end of the lease."""
        self.settling = asyncio.get_running_loop().create_future()
        return self._settle

    def _settle(self, headers: Headers) -> None:
        told = find_header(headers, LEASE_USAGE_HEADER)
        usage = None if told is None else parse_usage(told)
        if usage is not None and self.usage is not None:
            self.usage.prompt_tokens = usage.prompt_tokens
            self.usage.completion_tokens = usage.completion_tokens
        if self.settling is not None and not self.settling.done():
            self.settling.set_result(None)

    @property
    def opens_with_token(self) -> bool:
        """Whether the first bytes of the answer mean that the model has begun to write.

        They do not in an answer in one piece, nor in a Responses stream, whose first event has no
        token.
        """
        return self.stream and self._path != RESPONSES_PATH

    @property
    def may_run_twice(self) -> bool:
        """Whether the call may be hedged.

        Only streams tell when they begin. A draft's head comes at its checkpoint. A session's
        conversation is in the prefix cache of one replica, and only there.
        """
        return self.opens_with_token and not self._draft_tokens and self.session is None

    def render(self, lease: Lease) -> bytes:
        """The bytes on the wire, with the lease that opens the engine's port."""
        request_id = self.request_id.encode()
        more = b""
        if self.keys is not None:
            more = b"%b: %b\r\n" % (PREFIX_KEYS_HEADER, render_prefix_keys(self.keys))
        if self.claim.spare:
            more += b"%b: 1\r\n" % SPARE_HEADER
        return _render(
            self._path, lease, request_id, self._draft_tokens, self.traceparent, self._body, more
        )

    def copy(self) -> UpstreamRequest:
        """The same question again, for an answer that is neither judged nor charged."""
        path, stream = self._path.decode(), self.stream
        return UpstreamRequest(path, self._body, self.request_id, stream=stream, silent=True)


def _render(
    path: bytes,
    lease: Lease,
    request_id: bytes,
    draft_tokens: bytes,
    traceparent: bytes,
    body: bytes,
    more: bytes = b"",
) -> bytes:
    if draft_tokens:
        more += b"%b: %b\r\n" % (DRAFT_TOKENS_HEADER, draft_tokens)
    if traceparent:
        more += b"%b: %b\r\n" % (TRACEPARENT_HEADER, traceparent)
    return (
        b"POST %b HTTP/1.1\r\nhost: engine\r\ncontent-type: application/json\r\n"
        b"x-request-id: %b\r\n%b: %b\r\n%bcontent-length: %d\r\n\r\n%b"
        % (
            path,
            request_id,
            LEASE_HEADER,
            lease.sign(path, draft_tokens, len(body)),
            more,
            len(body),
            body,
        )
    )
