"""An issuer of tokens on a loopback address: its keys, its tokens, and its JWKS over HTTP."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import get_default_algorithms

from serve_app.config.jwt import JwtConfig

ISSUER = "https://login.example/realm"
AUDIENCE = "serve-app"
SECRET = b"0123456789abcdef0123456789abcdef"


@cache
def private_key(algorithm: str, number: int = 0) -> Any:
    """A private key of the algorithm's type; each number has another."""
    if algorithm[:2] in ("RS", "PS"):
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    if algorithm == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    curves = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}
    return ec.generate_private_key(curves[algorithm])


def public_jwk(algorithm: str, number: int = 0, **values: object) -> dict[str, Any]:
    """The public key as an issuer publishes it; its name is `<algorithm>-<number>`."""
    public = private_key(algorithm, number).public_key()
    jwk = get_default_algorithms()[algorithm].to_jwk(public, as_dict=True)
    return {**jwk, "kid": f"{algorithm}-{number}", "use": "sig", **values}


def claims(**values: object) -> dict[str, Any]:
    """Good claims with some values changed; None removes one."""
    now = int(time.time())
    good = {"iss": ISSUER, "aud": AUDIENCE, "exp": now + 600, "sub": "ann", "org": {"name": "acme"}}
    return {name: value for name, value in {**good, **values}.items() if value is not None}


def token(
    algorithm: str = "RS256",
    number: int = 0,
    headers: Mapping[str, object] | None = None,
    **values: object,
) -> str:
    """A signed token with these claims and headers."""
    names = {"kid": f"{algorithm}-{number}", **(headers or {})}
    return jwt.encode(claims(**values), private_key(algorithm, number), algorithm, names)


class LocalIssuer:
    """Publishes keys; a test changes what it answers."""

    def __init__(self) -> None:
        self.keys: list[dict[str, Any]] = []
        self.status = "200 OK"
        self.body: bytes | None = None
        self.asked = 0
        self.answers = asyncio.Event()
        """Cleared, the issuer answers nothing."""
        self.answers.set()
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request, unless the client leaves before it has sent it."""
        try:
            await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            writer.close()
            return
        self.asked += 1
        await self.answers.wait()
        body = json.dumps({"keys": self.keys}).encode() if self.body is None else self.body
        head = f"HTTP/1.1 {self.status}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        writer.write(head.encode() + body)
        with suppress(ConnectionError):  # the client may not read a body of this length
            await writer.drain()
        writer.close()

    def config(self, **values: object) -> JwtConfig:
        """A config that trusts this issuer; `issuer` holds values for the issuer."""
        issuer = {
            "issuer": ISSUER,
            "audiences": [AUDIENCE],
            "jwks_url": self.url,
            "claims": {"tenant": "org.name", "roles": "roles"},
            **dict(values.pop("issuer", {})),  # type: ignore[call-overload]  # a dict
        }
        return JwtConfig.model_validate({"issuers": [issuer], **values})


@asynccontextmanager
async def run_issuer(*keys: dict[str, Any]) -> AsyncIterator[LocalIssuer]:
    """An issuer that publishes these keys."""
    issuer = LocalIssuer()
    issuer.keys = list(keys)
    server = await asyncio.start_server(issuer.serve, "127.0.0.1", 0)
    issuer.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/jwks"
    try:
        yield issuer
    finally:
        issuer.answers.set()
        server.close()
        await server.wait_closed()
