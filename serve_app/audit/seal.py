"""Seals: signed statements of the newest hash of a chain, with Ed25519."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

PUBLIC_SUFFIX = ".pub"
_PURPOSE = b"serve-app audit seal 1\n"


class BadKey(ValueError):
    """A key file cannot be used."""


class BadSeal(ValueError):
    """A seal cannot be read, or its signature is not right."""


@dataclass(frozen=True, slots=True)
class Seal:
    """The statement that the record `seq` of a chain, in its file `file`, has the hash `head`.

    `time` is Unix time in seconds. `key` identifies the key that signed it.
    """

    chain: str
    file: int
    seq: int
    head: str
    time: float
    key: str
    signature: str = ""

    @property
    def statement(self) -> bytes:
        """The bytes that are signed."""
        fields = asdict(self)
        del fields["signature"]
        return _PURPOSE + orjson.dumps(fields)


class Signer:
    """The private key of an audit log."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.key_id = _key_id(key.public_key())

    def sign(self, chain: str, file: int, seq: int, head: bytes, time: float) -> Seal:
        """A signed seal."""
        fields = (chain, file, seq, head.hex(), time, self.key_id)
        return Seal(*fields, signature=self._key.sign(Seal(*fields).statement).hex())


class SealChecker:
    """The public keys that seals are checked with."""

    def __init__(self, keys: list[Ed25519PublicKey]) -> None:
        self._keys = {_key_id(key): key for key in keys}

    def parse(self, document: Any) -> Seal:
        """A seal whose signature is right.

        Raises:
            BadSeal: it is not.
        """
        try:
            seal = Seal(**document)
            self._keys[seal.key].verify(bytes.fromhex(seal.signature), seal.statement)
        except KeyError:
            raise BadSeal("it is signed with another key") from None
        except InvalidSignature:
            raise BadSeal("its signature is wrong") from None
        except (TypeError, ValueError, AttributeError):
            raise BadSeal("it is no seal") from None
        return seal


def render_seal(seal: Seal) -> Mapping[str, Any]:
    """The seal as a JSON object."""
    return asdict(seal)


def read_signer(path: Path) -> Signer:
    """The signer of a key file.

    Raises:
        BadKey: the file cannot be read, is open to everyone or holds no such key.
    """
    key = _load(path)
    if not isinstance(key, Ed25519PrivateKey):
        raise BadKey(f"{path} holds no private Ed25519 key; `serve-app audit keygen` makes one")
    if path.stat().st_mode & 0o007:
        raise BadKey(f"every user of this machine may use {path}; chmod 600 it")
    return Signer(key)


def read_checker(paths: list[Path]) -> SealChecker:
    """The checker of seals that were signed with any of these keys, private or public.

    Raises:
        BadKey: a file cannot be read or holds no such key.
    """
    return SealChecker([_public(_load(path), path) for path in paths])


def _public(key: object, path: Path) -> Ed25519PublicKey:
    if isinstance(key, Ed25519PrivateKey):
        return key.public_key()
    if isinstance(key, Ed25519PublicKey):
        return key
    raise BadKey(f"{path} holds no Ed25519 key")


def _load(path: Path) -> object:
    try:
        data = path.read_bytes()
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise BadKey(f"{path} cannot be read ({why}); `serve-app audit keygen` makes one") from None
    try:
        if b"PUBLIC KEY" in data:
            return load_pem_public_key(data)
        return load_pem_private_key(data, password=None)
    except (ValueError, TypeError):
        raise BadKey(f"{path} is no key file in PEM without a password") from None


def write_keys(path: Path) -> tuple[Path, str]:
    """Write a new key, and its public half beside it; returns the latter's path and the key's id.

    Raises:
        OSError: a file exists already or cannot be written.
    """
    key = Ed25519PrivateKey.generate()
    public = path.with_name(path.name + PUBLIC_SUFFIX)
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    _write_new(path, secret, 0o600)
    shown = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    _write_new(public, shown, 0o644)
    return public, _key_id(key.public_key())


def _write_new(path: Path, data: bytes, mode: int) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    try:
        os.write(file, data)
        os.fsync(file)
    finally:
        os.close(file)


def _key_id(key: Ed25519PublicKey) -> str:
    raw = key.public_bytes(Encoding.Raw, PublicFormat.Raw)
    return hashlib.sha256(raw).hexdigest()[:16]
