"""Who asks, over HTTP: the real keys and tokens before the real gateway."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from serve_app.access.authentication import build_authenticator
from serve_app.access.authenticator import Authenticator
from serve_app.access.digest import Pepper
from serve_app.access.keys import ApiKey, create_key
from serve_app.access.sqlite_store import SqliteKeyStore
from serve_app.access.stored_key import StoredKey
from serve_app.config.keys import KeysConfig
from serve_app.config.tiers import TierConfig
from serve_app.core.call import Call
from serve_app.core.caller import Caller, Credentials
from serve_app.core.errors import AccessUnavailable
from serve_app.steps import Steps
from tests.access.issuer import public_jwk, run_issuer, token
from tests.fakes import FakeAnswer
from tests.gateway.conftest import Gateway

SECRET = b"a pepper of more than 32 bytes, or so"
CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"


class KnownCallers:
    """An Access that asks for a proof, and lets each caller do everything."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator
        self.away = False

    async def authenticate(self, credentials: Credentials) -> Caller:
        if self.away:
            raise AccessUnavailable(2)
        found = await self._authenticator.identify(credentials)
        return Caller(found.tenant, found.key_id, found.user, found.roles)

    def authorise(self, call: Call, caller: Caller) -> Call:
        return call

    def visible(self, caller: Caller, tiers: Sequence[TierConfig]) -> Sequence[TierConfig]:
        return tiers

    async def describe_keys(self) -> None:
        return None

    def start(self) -> None:
        self._authenticator.start()

    async def close(self) -> None:
        await self._authenticator.close()


@pytest.fixture
def key(tmp_path: Path) -> ApiKey:
    """The one key of the store in `tmp_path`."""
    made = create_key()
    store = SqliteKeyStore(tmp_path / "keys.sqlite", 1)
    store.create(Pepper(SECRET).check)
    digest = Pepper(SECRET).digest(made.text)
    store.add(StoredKey(made.key_id, digest, "acme", "ann", (), None, 0))
    (tmp_path / "pepper").write_bytes(SECRET)
    return made


@pytest.fixture
async def access(key: ApiKey, tmp_path: Path, gateway: Gateway) -> AsyncIterator[KnownCallers]:
    """The gateway asks for the key, or for a token of a local issuer."""
    keys = {
        "file": str(tmp_path / "keys.sqlite"),
        "pepper": {"file": str(tmp_path / "pepper")},
    }
    async with run_issuer(public_jwk("RS256")) as issuer:
        found = build_authenticator(KeysConfig.model_validate(keys), issuer.config())
        access = KnownCallers(found)
        access.start()
        gateway.pipeline.steps = Steps(access=access)
        yield access
        await access.close()


async def ask(
    gateway: Gateway, path: str, headers: Sequence[tuple[bytes, bytes]]
) -> tuple[int, Any]:
    """Status and body of a call with these headers."""
    body = {"model": "fast", "max_tokens": 8, "messages": [{"role": "user", "content": "Hello"}]}
    answer = await gateway.client.post(path, json=body, headers=list(headers))
    return answer.status_code, answer.json()


@pytest.mark.usefixtures("access")
@pytest.mark.parametrize("path", [CHAT, MESSAGES])
async def test_a_proof_in_either_header_is_taken(gateway: Gateway, key: ApiKey, path: str) -> None:
    """By key and by token, on the endpoints of both dialects."""
    for proof in (key.text.encode(), token().encode()):
        for header in ((b"authorization", b"Bearer " + proof), (b"x-api-key", proof)):
            gateway.fast.answer = FakeAnswer([b'{"whole": true}'])
            status, body = await ask(gateway, path, [header])
            assert (status, body) == (200, {"whole": True})
    assert {record.caller.tenant for record in gateway.recorder.records} == {"acme"}
    assert {record.caller.key_id for record in gateway.recorder.records} == {key.key_id, None}


@pytest.mark.usefixtures("access")
@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"authorization", b"")],
        [(b"authorization", b"Bearer")],
        [(b"authorization", b"Basic eA==")],
        [(b"authorization", b"\xff\xfe\xfd")],
        [(b"authorization", b"Bearer \xc3\xa9")],
        [(b"authorization", b"Bearer sk-serve-")],
        [(b"authorization", b"Bearer a.b.c")],
        [(b"authorization", b"Bearer " + b"A" * 100_000)],
        [(b"authorization", b"Bearer " + b"." * 5_000)],
        [(b"x-api-key", b"")],
        [(b"x-api-key", b"sk-ant-other")],
        [(b"x-api-key", b"\x00\x01")],
        [(b"authorization", b"Bearer x"), (b"x-api-key", b"y")],
    ],
    ids=lambda headers: str(headers)[:50],
)
async def test_a_wrong_header_is_a_401_in_the_dialect(
    gateway: Gateway, headers: list[tuple[bytes, bytes]]
) -> None:
    """Never a 500, and no engine is asked."""
    status, body = await ask(gateway, CHAT, headers)
    assert (status, body["error"]["type"], body["error"]["code"]) == (
        401,
        "authentication_error",
        "invalid_api_key",
    )
    status, body = await ask(gateway, MESSAGES, headers)
    assert (status, body["type"], body["error"]["type"]) == (401, "error", "authentication_error")
    assert gateway.fast.requests == []


async def test_a_store_that_is_away_is_a_503_with_a_time(
    gateway: Gateway, access: KnownCallers
) -> None:
    """A client of either dialect may try again after it."""
    access.away = True
    for path in (CHAT, MESSAGES):
        answer = await gateway.client.post(path, json={}, headers={"x-api-key": "any"})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
