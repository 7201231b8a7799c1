"""Finds who asks from the headers of a request."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from serve_app.access.identity import Identity
from serve_app.access.key_ring import KeyRing
from serve_app.access.keys import PREFIX
from serve_app.core.caller import Credentials
from serve_app.core.errors import Unauthorized

if TYPE_CHECKING:
    # Their packages are there only where a config asks for them.
    from serve_app.access.certificates import CertificateReader
    from serve_app.access.jwt_tokens import TokenVerifier

PROOF_BYTES_MAX = 65_536

_BEARER = re.compile(rb"bearer +([!-~]+) *", re.IGNORECASE)
_VALUE = re.compile(rb" *([!-~]+) *")


class Authenticator:
    """Takes API keys and tokens, in `Authorization: Bearer` and in `x-api-key`.

    A client's certificate counts where a request brings neither: a key or token says more exactly
    who asks than the certificate of a proxy or a machine.
    """

    def __init__(
        self,
        keys: KeyRing | None,
        tokens: TokenVerifier | None,
        certificates: CertificateReader | None = None,
    ) -> None:
        self._keys = keys
        self._tokens = tokens
        self._certificates = certificates

    def start(self) -> None:
        """Begin to keep keys up to date, in the running event loop. May be called twice."""
        for part in (self._keys, self._tokens):
            if part is not None:
                part.start()

    async def close(self) -> None:
        """Write what is not written, and free every resource."""
        for part in (self._keys, self._tokens):
            if part is not None:
                await part.close()

    async def describe_keys(self) -> Sequence[Mapping[str, object]]:
        """The API keys for an operator, without their hashes.

        Raises:
            AccessUnavailable: the store of keys cannot be reached.
        """
        return [] if self._keys is None else await self._keys.describe_keys()

    async def identify(self, credentials: Credentials) -> Identity:
        """Who asks.

        Raises:
            Unauthorized: the credentials are missing, malformed, unknown or no longer valid.
            AccessUnavailable: keys or tokens cannot be checked at the moment.
        """
        certificate = credentials.certificate
        if self._certificates is not None and certificate and not credentials.has_proof:
            return self._certificates.identify(certificate)
        proof = read_proof(credentials)
        if proof.startswith(PREFIX):
            if self._keys is not None:
                return self._keys.identify(proof)
        elif self._tokens is not None:
            return await self._tokens.identify(proof)
        raise Unauthorized("kind of proof that is not taken")


def read_proof(credentials: Credentials) -> str:
    """The key or token of a request.

    Raises:
        Unauthorized: there is none, it is malformed, or the two headers differ.
    """
    found = [
        _match(pattern, value)
        for pattern, value in ((_BEARER, credentials.authorization), (_VALUE, credentials.api_key))
        if value is not None
    ]
    if not found:
        raise Unauthorized("no credentials")
    if found[0] != found[-1]:
        raise Unauthorized("two different credentials")
    return found[0]


def _match(pattern: re.Pattern[bytes], value: bytes) -> str:
    match = None if len(value) > PROOF_BYTES_MAX else pattern.fullmatch(value)
    if match is None:
        raise Unauthorized("malformed credentials")
    return match[1].decode("ascii")
