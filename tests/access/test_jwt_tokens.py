"""Tokens: the good ones, and every attack that is known on their kind."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from serve_app.access.authentication import build_token_verifier
from serve_app.access.identity import Identity
from serve_app.access.jwks import JwksKeys
from serve_app.access.jwt_tokens import TokenVerifier, TrustedIssuer, parse_part
from serve_app.config.jwt import IssuerConfig, JwtConfig
from serve_app.core.errors import AccessUnavailable, Unauthorized
from tests.access.issuer import (
    AUDIENCE,
    ISSUER,
    SECRET,
    LocalIssuer,
    claims,
    private_key,
    public_jwk,
    run_issuer,
    token,
)

ALGORITHMS = [
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "ES512",
    "EdDSA",
]


def now() -> int:
    """The time, of which tests claim to be before or after."""
    return int(time.time())


def encode(value: object) -> str:
    """A part of a token."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def forge(header: object, body: object = None, signature: str | None = None) -> str:
    """A token of these parts; by default with good claims and the signature of a good token."""
    good = token()
    signature = good.rpartition(".")[2] if signature is None else signature
    return f"{encode(header)}.{encode(claims() if body is None else body)}.{signature}"


def hmac_signed(secret: bytes, header: dict[str, object]) -> str:
    """A token signed with the secret, which PyJWT would not do with a public key."""
    head = f"{encode(header)}.{encode(claims())}"
    algorithm = jwt.get_algorithm_by_name("HS256")
    return f"{head}.{encode(algorithm.sign(head.encode(), secret))}"


def public_pem() -> bytes:
    public = private_key("RS256").public_key()
    return bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def self_signed(**headers: object) -> str:
    """A token signed by a key of the attacker's own."""
    mine = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return jwt.encode(claims(), mine, "RS256", {"kid": "RS256-0", **headers})


def truncated(text: str, chars: int) -> str:
    return text[:-chars]


@pytest.fixture
async def issuer() -> AsyncIterator[LocalIssuer]:
    async with run_issuer(public_jwk("RS256"), public_jwk("ES256")) as issuer:
        yield issuer


@asynccontextmanager
async def opened(config: JwtConfig) -> AsyncIterator[TokenVerifier]:
    verifier = build_token_verifier(config)
    yield verifier
    await verifier.close()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_a_good_token_says_who_asks(algorithm: str) -> None:
    """By every algorithm: tenant, user and roles of its claims, valid until `exp`."""
    async with run_issuer(public_jwk(algorithm)) as issuer:
        config = issuer.config(issuer={"algorithms": [algorithm]})
        async with opened(config) as verifier:
            until = now() + 600
            found = await verifier.identify(token(algorithm, roles=["dev"], exp=until))
            assert found == Identity("acme", None, "ann", ("dev",), until)


@pytest.mark.parametrize(
    "make",
    [
        lambda: token(aud=["other", AUDIENCE]),
        lambda: token(exp=now() - 100),
        lambda: token(exp=now() + 1000.5),
        lambda: token(nbf=now() + 100, iat=now() + 100),
        lambda: token(headers={"typ": "at+jwt"}),
        lambda: token(headers={"typ": "application/AT+JWT"}),
        lambda: token(headers={"x5t": "thumb", "kid": "RS256-0"}),
    ],
)
async def test_other_good_tokens(issuer: LocalIssuer, make: Callable[[], str]) -> None:
    """Several audiences, clocks that differ by less than the skew, the types of RFC 9068."""
    async with opened(issuer.config(skew_s=300)) as verifier:
        assert (await verifier.identify(make())).tenant == "acme"


ATTACKS: dict[str, dict[str, Callable[[], str]]] = {
    "malformed token": {
        "alg none": lambda: forge({"alg": "none", "kid": "RS256-0"}, signature=""),
        "header name twice": lambda: forge(b'{"alg":"RS256","alg":"RS256","kid":"RS256-0"}'),
        "claim twice": lambda: forge(
            {"alg": "RS256", "kid": "RS256-0"},
            json.dumps(claims())[:-1].encode() + b',"sub":"eve"}',
        ),
        "no signature": lambda: forge({"alg": "RS256", "kid": "RS256-0"}, signature=""),
        "header nested deeply": lambda: forge(b"[" * 5000),
        "claims nested deeply": lambda: forge({"alg": "RS256"}, b'{"iss":' + b"[" * 5000),
        "a number of 5000 digits": lambda: forge({"alg": "RS256"}, b'{"iss":' + b"9" * 5000 + b"}"),
        "claims are a list": lambda: forge({"alg": "RS256", "kid": "RS256-0"}, []),
        "header is a text": lambda: forge("RS256"),
        "header is no UTF-8": lambda: forge(b"\xff\xfe"),
        "encrypted token": lambda: "eyJhbGciOiJSU0EtT0FFUCJ9.AA.AA.AA.AA",
        "two parts": lambda: token().rpartition(".")[0],
        "standard base64": lambda: token().replace("_", "/").replace("-", "+") + "==",
        "white space": lambda: token().replace(".", ". ", 1),
        "not ASCII": lambda: token() + "é",
        "empty": lambda: "",
        "dots": lambda: "..",
    },
    "refused algorithm": {
        "alg none with a signature": lambda: forge({"alg": "none", "kid": "RS256-0"}),
        "alg NoNe": lambda: forge({"alg": "NoNe", "kid": "RS256-0"}),
        "no alg": lambda: forge({"kid": "RS256-0"}),
        "alg is a list": lambda: forge({"alg": ["RS256"], "kid": "RS256-0"}),
        "alg is null": lambda: forge({"alg": None, "kid": "RS256-0"}),
        "public key as HMAC secret": lambda: hmac_signed(public_pem(), {"alg": "HS256"}),
        "public key as HMAC secret, with kid": lambda: hmac_signed(
            public_pem(), {"alg": "HS256", "kid": "RS256-0"}
        ),
        "alg of another issuer's choice": lambda: token("ES256"),
        "RS512 where RS256 is fixed": lambda: token("RS512", headers={"kid": "RS256-0"}),
        "PS256 where RS256 is fixed": lambda: token("PS256", headers={"kid": "RS256-0"}),
    },
    "unknown signing key": {
        "key of another type": lambda: forge({"alg": "RS256", "kid": "ES256-0"}),
        "kid is a path": lambda: token(headers={"kid": "../../../../dev/null"}),
        "kid is SQL": lambda: token(headers={"kid": "x' UNION SELECT 'secret' --"}),
        "kid is a command": lambda: token(headers={"kid": "|id"}),
        "kid has a line end": lambda: token(headers={"kid": "RS256-0\r\nx: y"}),
    },
    "InvalidSignatureError": {
        "own key": self_signed,
        "changed claims": lambda: forge({"alg": "RS256", "kid": "RS256-0"}, claims(sub="eve")),
        "signature of zeros": lambda: forge(
            {"alg": "RS256", "kid": "RS256-0"}, signature=encode(bytes(256))
        ),
    },
    "refused token header": {
        "own key in jwk": lambda: self_signed(jwk=public_jwk("RS256", 7)),
        "jku": lambda: token(headers={"jku": "http://127.0.0.1/jwks"}),
        "x5u": lambda: token(headers={"x5u": "http://127.0.0.1/cert"}),
        "x5c": lambda: token(headers={"x5c": ["MIIB"]}),
        "crit": lambda: forge({"alg": "RS256", "kid": "RS256-0", "crit": ["exp"]}),
        "crit that PyJWT knows": lambda: forge(
            {"alg": "RS256", "kid": "RS256-0", "crit": ["b64"], "b64": True}
        ),
        "b64": lambda: forge({"alg": "RS256", "kid": "RS256-0", "b64": False}),
    },
    "malformed kid": {
        "kid is long": lambda: token(headers={"kid": "k" * 3000}),
        "kid is a number": lambda: forge({"alg": "RS256", "kid": 7}),
        "kid is a list": lambda: forge({"alg": "RS256", "kid": ["RS256-0"]}),
        "kid is an object": lambda: forge({"alg": "RS256", "kid": {"$ne": None}}),
    },
    "another type of token": {
        "typ of a logout token": lambda: token(headers={"typ": "logout+jwt"}),
        "typ of DPoP": lambda: token(headers={"typ": "dpop+jwt"}),
        "typ is a number": lambda: forge({"alg": "RS256", "kid": "RS256-0", "typ": 1}),
    },
    "DecodeError": {
        "signature cut off": lambda: truncated(token(), 4),
        "expiry is a list": lambda: token(exp=[now() + 600]),
    },
    "unknown issuer": {
        "unknown issuer": lambda: token(iss="https://evil.example"),
        "issuer with a slash more": lambda: token(iss=f"{ISSUER}/"),
        "no issuer": lambda: token(iss=None),
    },
    "InvalidAudienceError": {
        "other audience": lambda: token(aud="other"),
        "part of the audience": lambda: token(aud=AUDIENCE[:-1]),
        "audience is an object": lambda: token(aud={"a": AUDIENCE}),
    },
    "MissingRequiredClaimError": {
        "no audience": lambda: token(aud=None),
        "no expiry": lambda: token(exp=None),
    },
    "ExpiredSignatureError": {
        "expired": lambda: token(exp=now() - 40),
        "expiry is true": lambda: token(exp=True),
    },
    "exp is no number": {
        "expiry is a text": lambda: token(exp="9999999999"),
    },
    "ImmatureSignatureError": {
        "not yet valid": lambda: token(nbf=now() + 600),
        "issued in the future": lambda: token(iat=now() + 600),
    },
    "nbf is no number": {
        "nbf is a text": lambda: token(nbf="0"),
    },
    "token without a valid tenant": {
        "no tenant": lambda: token(org=None),
        "tenant is a number": lambda: token(org={"name": 7}),
        "tenant with a line end": lambda: token(org={"name": "acme\nadmin"}),
        "tenant is empty": lambda: token(org={"name": ""}),
    },
    "token without a valid user": {
        "sub with a line end": lambda: token(sub="ann\nbob"),
    },
    "token without a valid list of roles": {
        "roles is a number": lambda: token(roles=7),
        "roles is an object": lambda: token(roles={"admin": True}),
        "too many roles": lambda: token(roles=["r"] * 65),
    },
    "token without a valid role": {
        "roles holds a number": lambda: token(roles=["dev", 7]),
    },
    "oversize token": {
        "oversize": lambda: token(pad="x" * 8000),
    },
}
"""The attacks by the reason for which each is refused."""


@pytest.mark.parametrize(
    ("why", "attack"), [(why, name) for why, group in ATTACKS.items() for name in group]
)
async def test_an_attack_is_a_401(issuer: LocalIssuer, why: str, attack: str) -> None:
    """Never a 500, never a caller; the reason is one of a closed set, without the token."""
    async with opened(issuer.config()) as verifier:
        bad = ATTACKS[why][attack]()
        for _ in range(2):  # a refused token is not remembered as a good one
            with pytest.raises(Unauthorized) as error:
                await verifier.identify(bad)
            assert error.value.why == why
        assert await verifier.identify(token())


@given(st.text(max_size=300) | st.binary(max_size=300).map(encode))
def test_any_part_is_an_object_or_a_401(part: str) -> None:
    """Whatever stands in a token."""
    with suppress(Unauthorized):
        assert isinstance(parse_part(part), dict)


async def test_a_key_for_encryption_does_not_verify(issuer: LocalIssuer) -> None:
    """The issuer publishes it beside the others."""
    issuer.keys = [public_jwk("RS256", 1, use="enc"), public_jwk("RS256")]
    async with opened(issuer.config()) as verifier:
        with pytest.raises(Unauthorized):
            await verifier.identify(token(number=1))


async def test_an_issuer_without_its_keys_is_a_503(issuer: LocalIssuer) -> None:
    """Nobody can say whether the token is good; a token that is bad by itself is a 401."""
    issuer.status = "500 Internal Server Error"
    async with opened(issuer.config()) as verifier:
        with pytest.raises(AccessUnavailable):
            await verifier.identify(token())
        with pytest.raises(Unauthorized):
            await verifier.identify(token(headers={"jku": "http://127.0.0.1/"}))


async def test_issuers_are_apart(tmp_path: Any) -> None:
    """The keys of one do not verify tokens of the other, and each may name its own tenants."""
    async with run_issuer(public_jwk("RS256")) as one, run_issuer(public_jwk("RS256", 1)) as two:
        first = one.config().issuers[0].model_dump()
        second = {
            **two.config().issuers[0].model_dump(),
            "issuer": "https://two.example",
            "tenants_allowed": ["acme"],
        }
        async with opened(JwtConfig.model_validate({"issuers": [first, second]})) as verifier:
            other = {"kid": "RS256-1"}
            assert await verifier.identify(token(number=1, iss="https://two.example"))
            for bad in (
                token(iss="https://two.example"),
                token(number=1),
                token(headers=other, iss="https://two.example"),
                token(number=1, iss="https://two.example", org={"name": "rival"}),
            ):
                with pytest.raises(Unauthorized):
                    await verifier.identify(bad)
            assert await verifier.identify(token(org={"name": "rival"}))


@pytest.fixture
def shared(tmp_path: Any) -> JwtConfig:
    """An issuer for tests, with a shared secret."""
    (tmp_path / "secret").write_bytes(SECRET + b"\n")
    issuer = {
        "issuer": ISSUER,
        "audiences": [AUDIENCE],
        "algorithms": ["HS256"],
        "secret": {"file": str(tmp_path / "secret")},
        "tenant_default": "tests",
        "roles_default": ["dev"],
    }
    return JwtConfig.model_validate({"issuers": [issuer]})


async def test_a_shared_secret_for_tests(shared: JwtConfig) -> None:
    """HS256 by a file; what the claims lack comes from the config."""
    async with opened(shared) as verifier:
        good = jwt.encode(claims(), SECRET, "HS256")
        assert await verifier.identify(good) == Identity(
            "tests", None, "ann", ("dev",), claims_of(good)["exp"]
        )
        for bad in (
            jwt.encode(claims(), b"x" * 32, "HS256"),
            jwt.encode(claims(), SECRET + SECRET, "HS512"),
            token(),
            forge({"alg": "none"}, signature=""),
        ):
            with pytest.raises(Unauthorized):
                await verifier.identify(bad)


def claims_of(text: str) -> dict[str, Any]:
    found: dict[str, Any] = jwt.decode(text, options={"verify_signature": False})
    return found


async def test_a_verified_token_costs_no_signature(issuer: LocalIssuer) -> None:
    """It is remembered until it expires, or until the issuer's keys change."""
    clock = [time.time()]
    config = issuer.config(skew_s=0)
    keys = JwksKeys(config.issuers[0], config)
    trusted = TrustedIssuer(config.issuers[0], keys)
    verifier = TokenVerifier(config, [trusted], now=lambda: clock[0])
    good = token(exp=int(clock[0]) + 100)
    first = await verifier.identify(good)
    assert await verifier.identify(good) is first
    clock[0] += 101
    second = await verifier.identify(good)
    assert second is not first
    clock[0] -= 101
    issuer.keys = [public_jwk("RS256", 1)]
    await keys.fetch()
    with pytest.raises(Unauthorized):
        await verifier.identify(good)
    await verifier.close()


async def test_a_remembered_token_needs_keys_that_are_not_too_old(issuer: LocalIssuer) -> None:
    """An issuer that is away for too long is a 503 for its old tokens too."""
    passed = [0.0]
    config = issuer.config()
    keys = JwksKeys(config.issuers[0], config, clock=lambda: passed[0])
    verifier = TokenVerifier(config, [TrustedIssuer(config.issuers[0], keys)])
    good = token()
    assert await verifier.identify(good)
    passed[0] = config.stale_max_s + 1
    with pytest.raises(AccessUnavailable):
        await verifier.identify(good)
    await verifier.close()


async def test_the_memory_of_tokens_is_bounded(issuer: LocalIssuer) -> None:
    """The token that was not used for longest goes."""
    async with opened(issuer.config(cached_tokens_max=2)) as verifier:
        tokens = [token(sub=name) for name in "abc"]
        first = await verifier.identify(tokens[0])
        await verifier.identify(tokens[1])
        assert await verifier.identify(tokens[0]) is first
        await verifier.identify(tokens[2])
        assert await verifier.identify(tokens[0]) is first
        assert len(verifier._verified) == 2


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"algorithms": ["none"]}, "algorithms"),
        ({"algorithms": ["RS256", "HS256"]}, "HS256"),
        ({"algorithms": ["HS256"]}, "HS256"),
        ({"algorithms": []}, "algorithms"),
        ({"audiences": []}, "audiences"),
        ({"jwks_url": "http://login.example/jwks"}, "https"),
        ({"jwks_url": "file:///etc/passwd"}, "https"),
        ({"jwks_url": "https://ann:pass@login.example/"}, "password"),
        ({"jwks_url": None}, "jwks_url or secret"),
        ({"claims": {}}, "claims.tenant"),
        ({"tenant_default": "a b"}, "tenant_default"),
    ],
    ids=str,
)
def test_a_config_that_would_let_in_the_wrong_ones_is_refused(
    values: dict[str, object], words: str
) -> None:
    """Mixed algorithms, no audience, keys over plain HTTP, no tenant."""
    good = {
        "issuer": ISSUER,
        "audiences": [AUDIENCE],
        "jwks_url": "https://login.example/jwks",
        "claims": {"tenant": "org.name"},
    }
    assert IssuerConfig.model_validate(good)
    with pytest.raises(ValueError, match=words):
        IssuerConfig.model_validate({**good, **values})


def test_an_issuer_is_there_once() -> None:
    """Two entries of one issuer would make the second dead."""
    issuer = LocalIssuer()
    issuer.url = "https://login.example/jwks"
    [good] = issuer.config().issuers
    with pytest.raises(ValueError, match="twice"):
        JwtConfig(issuers=(good, good))
    with pytest.raises(ValueError, match="stale_max_s"):
        issuer.config(stale_max_s=10)
