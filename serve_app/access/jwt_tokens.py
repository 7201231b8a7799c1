"""Verifies JSON Web Tokens; everything that a token says of itself is refused or only compared."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jwt

from serve_app.access.claims import map_claims
from serve_app.access.identity import Identity
from serve_app.access.jwk_set import KEY_ID_CHARS_MAX
from serve_app.access.jwks import TokenKeys
from serve_app.config.jwt import IssuerConfig, JwtConfig
from serve_app.core.errors import Unauthorized

REFUSED_HEADERS = frozenset(("crit", "jku", "jwk", "x5c", "x5u", "b64"))
"""Headers by which a token brings its own key, or asks for rules that are not followed here."""
TYPES = frozenset(("jwt", "at+jwt", "application/at+jwt"))
REQUIRED = ["exp", "iss", "aud"]
TIMES = ("exp", "nbf", "iat")

_TOKEN = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class TrustedIssuer:
    """An issuer and its keys."""

    config: IssuerConfig
    keys: TokenKeys


@dataclass(frozen=True, slots=True)
class _Verified:
    """A verified token: who asks, until when, and by which keys of the issuer."""

    identity: Identity
    until: float
    issuer: TrustedIssuer
    generation: int


class TokenVerifier:
    """Finds the caller of a token."""

    def __init__(
        self,
        config: JwtConfig,
        issuers: Iterable[TrustedIssuer],
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._issuers = {issuer.config.issuer: issuer for issuer in issuers}
        self._now = now
        self._verified: OrderedDict[bytes, _Verified] = OrderedDict()

    def start(self) -> None:
        """Begin to keep the issuers' keys up to date."""
        for issuer in self._issuers.values():
            issuer.keys.start()

    async def close(self) -> None:
        """Free the resources."""
        for issuer in self._issuers.values():
            await issuer.keys.close()

    async def identify(self, token: str) -> Identity:
        """The caller with this token.

        Raises:
            Unauthorized: the token is malformed, not trusted or not valid now.
            AccessUnavailable: the issuer's keys cannot be fetched.
        """
        if len(token) > self._config.token_bytes_max:
            raise Unauthorized("oversize token")
        mark = hashlib.sha256(token.encode()).digest()
        known = self._recall(mark)
        if known is not None:
            return known
        verified = await self._verify(token)
        self._remember(mark, verified)
        return verified.identity

    def _recall(self, mark: bytes) -> Identity | None:
        """The caller of a token that was verified before, by keys that the issuer still has."""
        known = self._verified.get(mark)
        if known is None:
            return None
        keys = known.issuer.keys
        if known.until <= self._now() or known.generation != keys.generation:
            del self._verified[mark]
            return None
        keys.check()
        self._verified.move_to_end(mark)
        return known.identity

    def _remember(self, mark: bytes, verified: _Verified) -> None:
        self._verified[mark] = verified
        while len(self._verified) > self._config.cached_tokens_max:
            self._verified.popitem(last=False)

    async def _verify(self, token: str) -> _Verified:
        if _TOKEN.fullmatch(token) is None:
            raise Unauthorized("malformed token")
        head, body, _ = token.split(".")
        header, unverified = parse_part(head), parse_part(body)
        issuer = self._find_issuer(unverified)
        algorithm = check_header(header, issuer.config.algorithms)
        key = await issuer.keys.find(header.get("kid"), algorithm)
        # After `find`, which may fetch newer keys.
        generation = issuer.keys.generation
        claims = self._decode(token, key, algorithm, issuer.config)
        until = claims["exp"] + self._config.skew_s
        return _Verified(map_claims(claims, issuer.config), until, issuer, generation)

    def _find_issuer(self, unverified: Mapping[str, Any]) -> TrustedIssuer:
        name = unverified.get("iss")
        issuer = self._issuers.get(name) if isinstance(name, str) else None
        if issuer is None:
            raise Unauthorized("unknown issuer")
        return issuer

    def _decode(
        self, token: str, key: Any, algorithm: str, issuer: IssuerConfig
    ) -> Mapping[str, Any]:
        """The claims of the token after every check."""
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=issuer.audiences,
                issuer=issuer.issuer,
                leeway=self._config.skew_s,
                options={"require": REQUIRED},
            )
        except jwt.PyJWTError as error:
            # The names of PyJWT's errors are a closed set; their texts may quote the token.
            raise Unauthorized(type(error).__name__) from None
        for name in TIMES:
            value = claims.get(name, 0)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise Unauthorized(f"{name} is no number")
        return claims


def parse_part(part: str) -> Mapping[str, Any]:
    """The JSON object of a token's header or claims.

    Raises:
        Unauthorized: it is none, or has a name twice.
    """
    try:
        data = base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
        found = json.loads(data, object_pairs_hook=_unique)
    except (binascii.Error, RecursionError, ValueError):
        raise Unauthorized("malformed token") from None
    if not isinstance(found, dict):
        raise Unauthorized("malformed token")
    return found


def check_header(header: Mapping[str, Any], algorithms: Sequence[str]) -> str:
    """The token's algorithm, if its header holds nothing but what is allowed.

    Raises:
        Unauthorized: it does not.
    """
    if not REFUSED_HEADERS.isdisjoint(header):
        raise Unauthorized("refused token header")
    kind, key_id = header.get("typ", "JWT"), header.get("kid")
    if not isinstance(kind, str) or kind.lower() not in TYPES:
        raise Unauthorized("another type of token")
    if key_id is not None and not (isinstance(key_id, str) and len(key_id) <= KEY_ID_CHARS_MAX):
        raise Unauthorized("malformed kid")
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in algorithms:
        raise Unauthorized("refused algorithm")
    return algorithm


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a name is there twice")
    return values
