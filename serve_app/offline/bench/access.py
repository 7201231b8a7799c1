"""`serve-app bench access`: the CPU time that a call needs to show who asks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from time import process_time
from typing import Annotated, Any

import jwt
import orjson
import typer
import uvloop
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import get_default_algorithms

from serve_app.access.authenticator import Authenticator
from serve_app.access.digest import KeyDigest, Pepper
from serve_app.access.jwk_set import choose_key, parse_jwk_set
from serve_app.access.jwt_tokens import TokenVerifier, TrustedIssuer
from serve_app.access.key_ring import KeyRing
from serve_app.access.keys import ApiKey, create_key
from serve_app.access.store import KeySnapshot
from serve_app.access.stored_key import StoredKey
from serve_app.config.jwt import JwtConfig
from serve_app.config.keys import KeysConfig
from serve_app.core.caller import Credentials
from serve_app.core.errors import Unauthorized
from serve_app.offline.bench.grids import Grid
from serve_app.offline.bench.journal import append_section, print_report, render_section
from serve_app.offline.bench.machine import describe_machine
from serve_app.offline.bench.options import check_outputs
from serve_app.offline.bench.results import build_console

PEPPER = Pepper(b"bench" * 8)
ISSUER = "https://login.example/realm"
PRIVATE_KEYS: Mapping[str, Callable[[], Any]] = {
    "RS256": lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
}

Sent = Sequence[Credentials]
Trial = tuple[str, Authenticator, Callable[[int], Sent]]
"""A name, who finds out, and what is sent in each round."""


def access(
    calls: Annotated[int, typer.Option(min=10, help="Calls of each trial in a round.")] = 5000,
    keys: Annotated[int, typer.Option(min=1, help="Number of API keys in the store.")] = 10_000,
    rounds: Annotated[int, typer.Option(min=1, help="Of each trial; the cheapest counts.")] = 3,
    log: Annotated[
        Path | None, typer.Option(help="Log file to which a section is appended.")
    ] = None,
) -> None:
    """Measure the CPU time that a call needs to show who asks, by API key and by token."""
    check_outputs(log)
    machine = describe_machine()
    rows = uvloop.run(measure_access(calls, keys, rounds))
    grid = Grid(
        f"CPU of finding out who asks, with {keys:,} API keys", ("proof", "CPU us a call"), rows
    )
    print_report(build_console(), machine, [grid])
    if log is not None:
        append_section(log, render_section(machine, "serve-app bench access", [grid]))


async def measure_access(calls: int, keys: int, rounds: int) -> list[tuple[str, str]]:
    """The name of each trial, and the microseconds of a call in its cheapest round."""
    rows = []
    for name, found, sent in (*_key_trials(calls, keys), *_token_trials(calls)):
        times = [await _time(found, sent(turn)) for turn in range(rounds)]
        rows.append((name, f"{min(times):.1f}"))
    return rows


async def _time(found: Authenticator, sent: Sent) -> float:
    """Microseconds of a call, also of a refused one."""
    began = process_time()
    for credentials in sent:
        with suppress(Unauthorized):
            await found.identify(credentials)
    return 1e6 * (process_time() - began) / len(sent)


def _key_trials(calls: int, number: int) -> Iterator[Trial]:
    made = [create_key() for _ in range(number)]
    config = KeysConfig.model_validate({"file": "/unused", "pepper": {"file": "/unused"}})
    # A clock that stands, because nothing looks at the store here and its keys must not grow old.
    ring = KeyRing(MemoryKeyStore(made), PEPPER, config, clock=lambda: 0.0)
    found = Authenticator(ring, None)
    known = [_bearer(made[call % number].text) for call in range(calls)]
    unknown = [_bearer(create_key().text)] * calls
    slipped = [_bearer(made[0].text[:-1])] * calls
    yield "a known key", found, lambda turn: known
    yield "an unknown key: 401", found, lambda turn: unknown
    yield "a key with a typing slip: 401", found, lambda turn: slipped


def _token_trials(calls: int) -> Iterator[Trial]:
    for algorithm, make in PRIVATE_KEYS.items():
        key = make()
        jwk = get_default_algorithms()[algorithm].to_jwk(key.public_key(), as_dict=True)
        found = Authenticator(None, _build_verifier(algorithm, {**jwk, "kid": "1"}))
        new = partial(_tokens, key, algorithm, max(calls // 10, 1))
        seen = [new(0)[0]] * calls
        yield f"a new token, {algorithm}", found, new
        yield f"a token that was seen before, {algorithm}", found, partial(_same, seen)


def _same(sent: Sent, turn: int) -> Sent:
    return sent


def _tokens(key: Any, algorithm: str, number: int, turn: int) -> Sent:
    """Tokens of different users."""
    claims = {"iss": ISSUER, "aud": "serve-app", "exp": time.time() + 3600, "tenant": "acme"}
    return [
        _bearer(
            jwt.encode(
                {**claims, "sub": f"user-{turn}-{user}", "roles": ["dev", "ops"]},
                key,
                algorithm,
                {"kid": "1"},
            )
        )
        for user in range(number)
    ]


def _build_verifier(algorithm: str, jwk: Mapping[str, object]) -> TokenVerifier:
    issuer = {
        "issuer": ISSUER,
        "audiences": ["serve-app"],
        "algorithms": [algorithm],
        "jwks_url": "https://login.example/jwks",
        "claims": {"tenant": "tenant", "roles": "roles"},
    }
    config = JwtConfig.model_validate({"issuers": [issuer]})
    keys = FixedTokenKeys(orjson.dumps({"keys": [jwk]}), algorithm)
    return TokenVerifier(config, [TrustedIssuer(config.issuers[0], keys)])


def _bearer(text: str) -> Credentials:
    return Credentials(authorization=f"Bearer {text}".encode())


class FixedTokenKeys:
    """Keys of an issuer that were fetched once."""

    generation = 0

    def __init__(self, body: bytes, algorithm: str) -> None:
        self._keys = parse_jwk_set(body, frozenset((algorithm,)))

    def check(self) -> None:
        """The keys do not age."""

    async def find(self, key_id: str | None, algorithm: str) -> object:
        """The key that a token names."""
        found = choose_key(self._keys, key_id, algorithm)
        return None if found is None else found.key

    def start(self) -> None:
        """There is nothing to keep up to date."""

    async def close(self) -> None:
        """There is nothing to free."""


class MemoryKeyStore:
    """A store of keys that does not outlive its process."""

    def __init__(self, keys: Sequence[ApiKey]) -> None:
        self._keys = {
            key.key_id: StoredKey(
                key.key_id, PEPPER.digest(key.text), "acme", "ann", ("dev", "ops"), None, 0
            )
            for key in keys
        }

    def create(self, pepper: KeyDigest) -> None:
        """There is nothing to make."""

    def read(self, known: str | None = None) -> KeySnapshot | None:
        """All keys."""
        return KeySnapshot("1", PEPPER.check, self._keys)

    def add(self, key: StoredKey) -> None:
        """Add a new key."""
        self._keys[key.key_id] = key

    def change(self, key_id: str, change: Callable[[StoredKey], StoredKey]) -> StoredKey | None:
        """Change a key."""
        self._keys[key_id] = change(self._keys[key_id])
        return self._keys[key_id]

    def last_used(self) -> Mapping[str, int]:
        """No use is kept."""
        return {}

    def note_used(self, uses: Mapping[str, int]) -> None:
        """No use is kept."""

    def close(self) -> None:
        """There is nothing to free."""
