"""Which replica a call goes to by what the replicas have cached, and the way of its place."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping

import pytest

from serve_app.config.runtime import DeadlinesConfig, LeaseConfig
from serve_app.core.errors import TierOverloaded
from serve_app.core.prefix import NO_KEYS, PrefixChange, PrefixKeys, prefix_keys
from serve_app.core.residence import NOWHERE
from serve_app.leases.board import ReplicaBoard, Seat
from serve_app.leases.client import TierClient, UpstreamRequest
from serve_app.leases.http1 import Address
from serve_app.leases.lease import Lease
from serve_app.leases.load import EngineLoads
from serve_app.leases.pool import RANKED_S, LeasePool
from serve_app.leases.prefix_choice import Prefix, PrefixChoice
from serve_app.leases.prefix_cost import ReplicaLoad
from serve_app.leases.ranking import Ranking, find_ranking, handed_over
from serve_app.leases.replica_states import ReplicaStates
from serve_app.leases.signature import LeaseSigner
from serve_app.leases.state_frames import Keys
from serve_app.replica.meter import METER
from serve_app.replica.prefix_table import PrefixTable
from tests.fakes import FakeGrant
from tests.leases.replica import Replica
from tests.replica.test_prefills import Request

TEXT = prefix_keys([b"You are a helpful assistant. " * 500])
OTHER = prefix_keys([b"You are a translator. " * 500])
TOKENS = 4000
TOKEN = "0" * 32
A, B, C = (("10.0.0.1", port) for port in (1, 2, 3))
SEATS = {"a": Seat(A, TOKEN), "b": Seat(B, TOKEN), "c": Seat(C, TOKEN)}


class Setting:
    """A choice among three replicas that tell what a test says."""

    def __init__(self) -> None:
        self.board = ReplicaBoard()
        self.board.publish(SEATS)
        self.state = ReplicaStates(EngineLoads())
        self.in_use: dict[Address, int] = {}
        self.failing: set[Address] = set()
        self.choice = PrefixChoice(
            self.board,
            self.state,
            lambda address: self.in_use.get(address, 0),
            lambda address: address in self.failing,
            random.Random(1),
        )

    def tell(self, name: str, load: ReplicaLoad, keys: PrefixKeys = NO_KEYS) -> None:
        """A replica's stream is fresh, and it has cached this."""
        changes = [PrefixChange(key, keys.tokens_at(n, TOKENS)) for n, key in enumerate(keys.keys)]
        assert self.state.note_keys(name, 1, Keys(0, changes, whole=True))
        self.state.note_load(name, SEATS[name], load)

    def first(self, keys: PrefixKeys) -> set[str]:
        """The replicas that are chosen first, in many tries."""
        plans = [self.choice.plan(keys, TOKENS, 0.0) for _ in range(60)]
        return {plan.ranking.names[0] for plan in plans}


async def test_a_call_goes_where_its_beginning_is_cached() -> None:
    """Unless the work that waits there takes longer than to read it anew."""
    setting = Setting()
    for name in SEATS:
        setting.tell(name, ReplicaLoad(), TEXT if name == "b" else NO_KEYS)
    assert setting.first(TEXT) == {"b"}
    assert setting.first(OTHER) == {"a", "b", "c"}
    setting.tell("b", ReplicaLoad(pending_tokens=50_000), TEXT)
    assert setting.first(TEXT) == {"a", "c"}


async def test_a_lost_stream_is_chosen_by_own_calls() -> None:
    """Nothing is cached there, as far as is known."""
    setting = Setting()
    setting.in_use = {A: 900, B: 0, C: 900}
    assert setting.first(TEXT) == {"b"}
    setting.tell("b", ReplicaLoad(), TEXT)
    setting.state.note_lost("b", SEATS["b"])
    setting.in_use = {A: 0, B: 900, C: 900}
    assert setting.first(TEXT) == {"a"}


async def test_a_replica_that_fails_is_not_ranked() -> None:
    """Ray would be asked for it again and again."""
    setting = Setting()
    setting.tell("a", ReplicaLoad(), TEXT)
    setting.failing = {A}
    assert "a" not in setting.choice.plan(TEXT, TOKENS, 0.0).ranking.names


async def test_own_decisions_count_at_once() -> None:
    """A second call with the same beginning follows the first before the replica has told of it."""
    setting = Setting()
    for name in SEATS:
        setting.tell(name, ReplicaLoad())
    plan = setting.choice.plan(TEXT, TOKENS, 0.0)
    setting.choice.note(plan, C, 0.0)
    setting.choice._own.tokens(1.0)
    plans = [setting.choice.plan(TEXT, TOKENS, 1.0).ranking.names[0] for _ in range(20)]
    assert set(plans) == {"c"}
    assert (setting.choice.predicted_tokens, setting.choice.prompt_tokens) == (0, TOKENS)


async def test_a_plan_knows_when_the_first_token_would_come() -> None:
    """From the replica that would be first, whichever costs least, and never from a guess."""
    setting = Setting()
    assert setting.choice.plan(TEXT, TOKENS, 0.0).first_token_s is None
    setting.tell("a", ReplicaLoad(pending_tokens=4000, prefill_tokens_per_s=1000.0))
    setting.tell("b", ReplicaLoad(pending_tokens=1000, prefill_tokens_per_s=1000.0), TEXT)
    warm_s = setting.choice.plan(TEXT, TOKENS, 0.0).first_token_s
    assert warm_s == pytest.approx(1.2, abs=0.1)
    assert setting.choice.plan(OTHER, TOKENS, 0.0).first_token_s == pytest.approx(5.0)
    setting.tell("c", ReplicaLoad(pending_tokens=9000))
    assert setting.choice.plan(OTHER, TOKENS, 0.0).first_token_s is None
    setting.state.note_lost("c", SEATS["c"])
    assert setting.choice.plan(OTHER, TOKENS, 0.0).first_token_s == pytest.approx(5.0)


async def test_residence_is_that_of_the_replica_that_has_most() -> None:
    """In the seconds that it saves; a lost stream and an unmeasured rate save nothing."""
    setting = Setting()
    assert setting.choice.residence(TEXT, TOKENS, 0.0) == NOWHERE
    setting.tell("a", ReplicaLoad(prefill_tokens_per_s=1000.0))
    setting.tell("b", ReplicaLoad(prefill_tokens_per_s=2000.0))
    cold = setting.choice.residence(TEXT, TOKENS, 0.0)
    assert (cold.gain_s, cold.read_s) == (0.0, 2.0)
    setting.tell("a", ReplicaLoad(prefill_tokens_per_s=1000.0), TEXT)
    warm = setting.choice.residence(TEXT, TOKENS, 0.0)
    assert warm.gain_s == pytest.approx(3.8, abs=0.1)
    assert warm.gain_s + warm.read_s == pytest.approx(4.0)
    assert warm.on_gpus(2).gain_s == 2 * warm.gain_s
    setting.failing = {A}
    assert setting.choice.residence(TEXT, TOKENS, 0.0) == cold
    setting.tell("b", ReplicaLoad(), TEXT)
    assert setting.choice.residence(TEXT, TOKENS, 0.0) == NOWHERE


def grant(address: Address) -> FakeGrant:
    return FakeGrant("id", address, LeaseSigner("id", b"s" * 16))


class Ray:
    """Grants what is asked for, as soon as the test allows it."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []
        self.allowed = asyncio.Event()
        self.allowed.set()
        self.refusing = False

    async def __call__(self, session: str | None = None) -> FakeGrant:
        return await self.ranked(())

    async def ranked(self, ranking: tuple[str, ...]) -> FakeGrant:
        self.asked.append(ranking)
        await self.allowed.wait()
        if self.refusing:
            raise TierOverloaded(retry_after_s=1)
        return grant(SEATS[ranking[0] if ranking else "a"].address)


def build(ray: Ray) -> tuple[LeasePool, list[Lease]]:
    ended: list[Lease] = []
    pool = LeasePool(
        ray,
        ended.append,
        reuse_s=5,
        age_max_s=60,
        session_s=0,
        asks_by_session=False,
        ranked=ray.ranked,
    )
    return pool, ended


def ranking(costs: Mapping[str, float]) -> Ranking:
    names = tuple(sorted(costs, key=lambda name: costs[name]))
    by_address = {SEATS[name].address: cost for name, cost in costs.items()}
    return Ranking(names, by_address, min(costs.values()))


async def idle_at(pool: LeasePool, name: str) -> None:
    pool.release(await pool.acquire(ranking=ranking({name: 0.0})), reusable=True)


async def test_an_idle_place_is_taken_unless_another_replica_saves_much() -> None:
    """A request to Ray costs ten milliseconds."""
    ray = Ray()
    pool, _ = build(ray)
    await idle_at(pool, "a")
    near = await pool.acquire(ranking=ranking({"a": 0.105, "b": 0.1}))
    assert near.address == A
    assert len(ray.asked) == 1
    pool.release(near, reusable=True)
    far = await pool.acquire(ranking=ranking({"a": 0.5, "b": 0.1}))
    assert far.address == B
    assert ray.asked[1] == ("b", "a")


async def test_the_best_of_the_idle_places_is_taken() -> None:
    """Whichever is the newest."""
    ray = Ray()
    pool, _ = build(ray)
    first, second = [await pool.acquire(ranking=ranking({name: 0.0})) for name in "ab"]
    pool.release(first, reusable=True)
    pool.release(second, reusable=True)
    lease = await pool.acquire(ranking=ranking({"a": 0.1, "b": 0.2, "c": 0.3}))
    assert lease.address == A


async def test_a_call_waits_only_a_moment_for_its_replica() -> None:
    """Then it takes any place."""
    ray = Ray()
    pool, _ = build(ray)
    await idle_at(pool, "a")
    ray.allowed.clear()
    began = asyncio.get_running_loop().time()
    lease = await pool.acquire(ranking=ranking({"a": 0.5, "b": 0.1}))
    assert lease.address == A
    assert asyncio.get_running_loop().time() - began >= RANKED_S * 0.9
    ray.allowed.set()
    await asyncio.sleep(0.01)
    assert pool.open_leases == 2
    assert pool.waiting == 0


async def test_a_freed_place_goes_to_a_call_that_wants_it() -> None:
    """And not to one that has come before it and waits for another replica."""
    ray = Ray()
    pool, _ = build(ray)
    held = await pool.acquire(ranking=ranking({"a": 0.0}))
    ray.allowed.clear()
    wants_b = asyncio.create_task(pool.acquire(ranking=ranking({"b": 0.0, "a": 1.0})))
    wants_a = asyncio.create_task(pool.acquire(ranking=ranking({"a": 0.0, "b": 1.0})))
    await asyncio.sleep(0)
    pool.release(held, reusable=True)
    assert (await wants_a).address == A
    assert not wants_b.done()
    ray.allowed.set()
    assert (await wants_b).address == B


async def test_a_refusal_is_no_reason_to_fail_where_a_place_is_idle() -> None:
    """The call takes that place."""
    ray = Ray()
    pool, _ = build(ray)
    await idle_at(pool, "a")
    ray.refusing = True
    assert (await pool.acquire(ranking=ranking({"a": 0.5, "b": 0.1}))).address == A
    with pytest.raises(TierOverloaded):
        await pool.acquire(ranking=ranking({"a": 0.5, "b": 0.1}))


async def test_calls_that_give_up_leave_nothing_behind() -> None:
    """Whatever they waited for."""
    ray = Ray()
    pool, _ = build(ray)
    ray.allowed.clear()
    calls = [asyncio.create_task(pool.acquire(ranking=ranking({"b": 0.0}))) for _ in range(20)]
    await asyncio.sleep(0)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    assert (pool.waiting, len(pool._picky)) == (0, 0)
    ray.allowed.set()
    await asyncio.sleep(0.01)
    assert pool.in_use == 0


async def test_many_calls_over_few_places_all_get_one() -> None:
    """Random wishes, places that come and go: no call is forgotten, and no place leaks."""
    ray, chance = Ray(), random.Random(17)
    pool, _ = build(ray)
    done = 0

    async def call() -> None:
        nonlocal done
        await asyncio.sleep(chance.random() * 0.2)
        costs = {name: chance.random() for name in SEATS}
        lease = await pool.acquire(ranking=ranking(costs))
        await asyncio.sleep(chance.random() * 0.01)
        pool.release(lease, reusable=chance.random() < 0.9)
        done += 1

    async with asyncio.timeout(30):
        await asyncio.gather(*(call() for _ in range(300)))
    assert (done, pool.in_use, pool.waiting) == (300, 0, 0)
    pool.close()
    await asyncio.sleep(0)
    assert pool.open_leases == 0


def test_a_ranking_is_handed_over_while_ray_is_asked() -> None:
    """By the lease's id, and nothing stays."""
    with handed_over("lease", ("b", "a")), handed_over("none", ()):
        assert find_ranking("lease") == ("b", "a")
        assert find_ranking("none") == find_ranking(7) == ()
    assert find_ranking("lease") == ()


class CachingReplica(Replica):
    """A replica whose engine caches every prompt for ever."""

    def __init__(self) -> None:
        self.table = PrefixTable(1_000_000)
        super().__init__(table=self.table)
        self.prefills.table = self.table
        self.seen: set[int] = set()
        self.cached_tokens: list[int] = []

    async def __call__(self, scope, receive, send) -> None:  # type: ignore[no-untyped-def]
        keys = next(value for name, value in scope["headers"] if name == b"x-prefix-keys")
        meter = METER.get()
        assert meter is not None
        assert keys
        request = Request(TOKENS)
        meter.add(request)
        request.num_cached_tokens = TOKENS if hash(keys) in self.seen else 0
        request.is_prefilling = False
        self.seen.add(hash(keys))
        self.cached_tokens.append(request.num_cached_tokens)
        await super().__call__(scope, receive, send)


async def test_calls_follow_their_beginnings_through_real_doors() -> None:
    """Keys go by a header, the replica's table comes back by its stream, also to other Routers."""
    replicas = {name: CachingReplica() for name in "abc"}
    for each in replicas.values():
        await each.start()
    board = ReplicaBoard()
    board.publish({name: each.seat for name, each in replicas.items()})

    class Places:
        async def __call__(self, session: str | None = None) -> FakeGrant:
            raise AssertionError("the ranking names all replicas")

        async def ranked(self, ranking: tuple[str, ...]) -> FakeGrant:
            await asyncio.sleep(0)
            return replicas[ranking[0]].grant()

    places = Places()
    clients = [
        TierClient("t", places, LeaseConfig(), board=board, by_prefix=places.ranked) for _ in "12"
    ]
    # A board has one listener in a process, and this process has two Routers.
    clients[0].start()
    clients[1]._streams._board.listen(None)
    deadlines = DeadlinesConfig(lease_s=5, first_byte_s=5, gap_s=5, total_s=5)

    async def ask(client: TierClient, keys: PrefixKeys) -> None:
        request = UpstreamRequest(
            "/v1/chat/completions",
            b"{}",
            "id",
            stream=True,
            prefix=Prefix(lambda: keys, "model", TOKENS),
        )
        loop = asyncio.get_running_loop()
        async with client.exchange(request, deadlines.start(loop.time())) as answer:
            while await answer.read():
                pass

    try:
        async with asyncio.timeout(10):
            while len(clients[0]._state_of.loads) < 3:
                await asyncio.sleep(0.01)
        for _ in range(4):
            await ask(clients[0], TEXT)
            await ask(clients[0], OTHER)
        asked = [tokens for each in replicas.values() for tokens in each.cached_tokens]
        assert asked.count(0) == 2
        clients[1].start()
        async with asyncio.timeout(10):
            while len(clients[1]._state_of.index) < len(TEXT.keys):
                await asyncio.sleep(0.01)
        await ask(clients[1], TEXT)
        assert [t for each in replicas.values() for t in each.cached_tokens].count(0) == 2
    finally:
        for client in clients:
            client.close()
        for each in replicas.values():
            await each.stop()
