"""An issuer's keys: fetched with a deadline, rotated, kept while the issuer is away."""

from __future__ import annotations

import asyncio
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.access.jwk_set import choose_key, parse_jwk_set
from serve_app.access.jwks import BODY_BYTES_MAX, JwksKeys
from serve_app.core.errors import AccessUnavailable, Unauthorized
from tests.access.issuer import LocalIssuer, public_jwk, run_issuer


def render(data: bytes) -> str:
    """The bytes as a JWK holds numbers."""
    return urlsafe_b64encode(data).decode().rstrip("=")


class FakeClock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def issuer() -> AsyncIterator[LocalIssuer]:
    async with run_issuer(public_jwk("RS256")) as issuer:
        yield issuer


@asynccontextmanager
async def opened(
    issuer: LocalIssuer, clock: FakeClock, **values: object
) -> AsyncIterator[JwksKeys]:
    """The keys of the issuer, fetched only when a token asks or the test says so."""
    config = issuer.config(**values)
    keys = JwksKeys(config.issuers[0], config, clock=clock)
    yield keys
    await keys.close()


async def test_the_first_token_fetches_the_keys(issuer: LocalIssuer, clock: FakeClock) -> None:
    """Many at once wait for one fetch; later tokens ask nobody."""
    async with opened(issuer, clock) as keys:
        found = await asyncio.gather(*(keys.find("RS256-0", "RS256") for _ in range(20)))
        assert issuer.asked == 1
        assert len({id(key) for key in found}) == 1
        clock.now += 100
        await keys.find("RS256-0", "RS256")
        assert issuer.asked == 1


async def test_a_client_that_leaves_does_not_end_the_fetch(
    issuer: LocalIssuer, clock: FakeClock
) -> None:
    """Others wait for it."""
    issuer.answers.clear()
    async with opened(issuer, clock) as keys:
        first = asyncio.create_task(keys.find("RS256-0", "RS256"))
        second = asyncio.create_task(keys.find("RS256-0", "RS256"))
        while not issuer.asked:
            await asyncio.sleep(0.001)
        first.cancel()
        issuer.answers.set()
        assert await second
        assert issuer.asked == 1


async def test_a_rotated_key_is_fetched(issuer: LocalIssuer, clock: FakeClock) -> None:
    """A token with a new name asks once more, and the withdrawn key is gone."""
    async with opened(issuer, clock, refetch_min_s=10) as keys:
        await keys.find("RS256-0", "RS256")
        generation = keys.generation
        issuer.keys = [public_jwk("RS256", 1)]
        clock.now += 10
        assert await keys.find("RS256-1", "RS256")
        assert keys.generation != generation
        with pytest.raises(Unauthorized):
            await keys.find("RS256-0", "RS256")


async def test_unknown_names_do_not_flood_the_issuer(issuer: LocalIssuer, clock: FakeClock) -> None:
    """A thousand tokens with made-up names cost one fetch in `refetch_min_s`."""
    async with opened(issuer, clock, refetch_min_s=10) as keys:
        for number in range(1000):
            with pytest.raises(Unauthorized):
                await keys.find(f"made-up-{number}", "RS256")
        assert issuer.asked == 1
        clock.now += 10
        with pytest.raises(Unauthorized):
            await keys.find("made-up", "RS256")
        assert issuer.asked == 2


@pytest.mark.parametrize(
    "change",
    [
        {"status": "500 Internal Server Error"},
        {"status": "302 Found"},
        {"body": b"<html>"},
        {"body": b"[]"},
        {"body": b'{"keys": []}'},
        {"body": b'{"keys": [{"kty": "RSA"}, 7]}'},
        {"body": b" " * (BODY_BYTES_MAX + 1)},
    ],
    ids=str,
)
async def test_a_bad_answer_leaves_the_old_keys(
    issuer: LocalIssuer, clock: FakeClock, change: dict[str, object]
) -> None:
    """Stale while the issuer errs, until they are too old; then 503 and not 401."""
    async with opened(issuer, clock, stale_max_s=3600) as keys:
        await keys.find("RS256-0", "RS256")
        vars(issuer).update(change)
        await keys.fetch()
        clock.now += 3600
        keys.check()
        assert await keys.find("RS256-0", "RS256")
        with pytest.raises(AccessUnavailable):
            await keys.find("other", "RS256")
        clock.now += 0.1
        with pytest.raises(AccessUnavailable):
            keys.check()
        with pytest.raises(AccessUnavailable):
            await keys.find("RS256-0", "RS256")


async def test_an_issuer_that_hangs_is_given_up(issuer: LocalIssuer, clock: FakeClock) -> None:
    """The deadline of a fetch is a 503, and the next token does not wait again."""
    issuer.answers.clear()
    async with opened(issuer, clock, fetch_s=0.05) as keys:
        with pytest.raises(AccessUnavailable):
            await keys.find("RS256-0", "RS256")
        asked = issuer.asked
        with pytest.raises(AccessUnavailable):
            await keys.find("RS256-0", "RS256")
        assert issuer.asked == asked


async def test_an_issuer_that_is_not_there_is_a_503(clock: FakeClock) -> None:
    """Nobody can say whether the token is good."""
    async with run_issuer() as issuer:
        pass
    async with opened(issuer, clock) as keys:
        with pytest.raises(AccessUnavailable):
            await keys.find("RS256-0", "RS256")


async def test_an_address_that_is_none_is_a_503(clock: FakeClock) -> None:
    """An address that the config cannot see through is no fault of a call."""
    issuer = LocalIssuer()
    issuer.url = "https://login.example:99999/jwks"
    async with opened(issuer, clock) as keys:
        with pytest.raises(AccessUnavailable):
            await keys.find("RS256-0", "RS256")


async def test_keys_are_refreshed_in_the_background(issuer: LocalIssuer) -> None:
    """Without any token; a second start begins no second refresh."""
    config = issuer.config(refresh_s=1, stale_max_s=3600)
    keys = JwksKeys(config.issuers[0], config)
    keys.start()
    keys.start()
    async with asyncio.timeout(20):
        while issuer.asked < 2:
            await asyncio.sleep(0.01)
    await keys.close()
    assert await keys.find("RS256-0", "RS256")


def parsed(*keys: dict[str, object], algorithms: tuple[str, ...] = ("RS256", "ES256")) -> list[str]:
    body = orjson.dumps({"keys": keys})
    try:
        return [
            f"{key.key_id} {key.algorithm}" for key in parse_jwk_set(body, frozenset(algorithms))
        ]
    except ValueError:
        return []


@pytest.mark.parametrize(
    "values",
    [
        {"use": "enc"},
        {"key_ops": ["encrypt"]},
        {"alg": "RS512"},
        {"kty": "oct", "k": "AAAA"},
        {"kty": ["RSA"]},
        {"key_ops": 7},
        {"use": {}},
        {"n": "AQAB"},
        {"n": 7},
        {"kid": 7},
        {"kid": "k" * 300},
        {"crv": "P-256"},
        {"d": "AQAB"},
    ],
    ids=str,
)
def test_a_key_that_may_not_sign_is_left_out(values: dict[str, object]) -> None:
    """For encryption, for another algorithm, of another type, too short, or with broken values."""
    assert parsed(public_jwk("RS256"), {**public_jwk("RS256", 1), **values}) == ["RS256-0 RS256"]


def test_a_key_is_there_for_each_algorithm_of_its_type() -> None:
    """An RSA key for RS and PS; a curve's key for its one algorithm."""
    keys = (public_jwk("RS256"), public_jwk("ES256"), public_jwk("ES384"), public_jwk("EdDSA"))
    algorithms = ("RS256", "PS256", "ES256", "ES384", "EdDSA")
    assert parsed(*keys, algorithms=algorithms) == [
        "RS256-0 PS256",
        "RS256-0 RS256",
        "ES256-0 ES256",
        "ES384-0 ES384",
        "EdDSA-0 EdDSA",
    ]


def test_a_token_without_a_name_needs_a_set_with_one_key() -> None:
    """With two keys it would be a guess; two keys of one name are one too."""
    body = orjson.dumps({"keys": [public_jwk("RS256"), public_jwk("ES256")]})
    keys = parse_jwk_set(body, frozenset(("RS256", "ES256")))
    assert choose_key(keys, None, "RS256") == keys[0]
    assert choose_key([*keys, *keys], None, "RS256") is None
    assert choose_key([*keys, *keys], "RS256-0", "RS256") is None


junk = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text() | st.binary().map(render),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.sampled_from(["RS256", "ES256", "EdDSA"]),
    st.dictionaries(
        st.sampled_from(["kty", "crv", "n", "e", "x", "y", "kid", "alg", "use", "key_ops"]), junk
    ),
)
def test_no_key_of_an_issuer_is_a_fault_of_this_service(
    algorithm: str, values: dict[str, object]
) -> None:
    """Broken values leave the key out, and the good key beside it is taken."""
    broken = {**public_jwk(algorithm, 1), **values}
    found = parsed(public_jwk("RS256"), broken, algorithms=("RS256", "ES256", "EdDSA"))
    assert found[0] == "RS256-0 RS256"
