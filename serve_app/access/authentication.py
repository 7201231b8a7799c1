"""From the config to the part that finds who asks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from serve_app.access.authenticator import Authenticator
from serve_app.access.digest import PEPPER_BYTES_MIN, Pepper
from serve_app.access.key_ring import KeyRing
from serve_app.access.store import KeyStore, KeyStoreUnavailable
from serve_app.config.certificates import CertificatesConfig
from serve_app.config.jwt import IssuerConfig, JwtConfig
from serve_app.config.keys import KeysConfig, KeysRedisConfig
from serve_app.config.reader import ConfigError, read_secret

if TYPE_CHECKING:
    # Imported below, and only if a config asks for them.
    from serve_app.access.certificates import CertificateReader
    from serve_app.access.jwks import TokenKeys
    from serve_app.access.jwt_tokens import TokenVerifier

KEYS = "access.keys"
SECRET_BYTES_MIN = 32
CREATE_HINT = "; `serve-app keys create CONFIG ...` makes the store and the first key"


def build_authenticator(
    keys: KeysConfig | None,
    jwt: JwtConfig | None,
    certificates: CertificatesConfig | None = None,
) -> Authenticator:
    """The part that finds who asks. It reads all keys once.

    Raises:
        ValueError: one line that names the key of the config and what is wrong with it.
    """
    return Authenticator(
        None if keys is None else build_key_ring(keys),
        None if jwt is None else build_token_verifier(jwt),
        None if certificates is None else build_certificate_reader(certificates),
    )


def build_key_ring(config: KeysConfig) -> KeyRing:
    """The keys of a store. Raises ValueError if the store or the pepper cannot be used."""
    store, pepper = open_store(config), read_pepper(config)
    try:
        return KeyRing(store, pepper, config)
    except KeyStoreUnavailable as error:
        raise ValueError(f"{KEYS}: {error}{CREATE_HINT}") from None


def read_pepper(config: KeysConfig) -> Pepper:
    """The pepper. Raises ValueError if it cannot be used."""
    with _named(f"{KEYS}.pepper"):
        return Pepper(read_secret(config.pepper, PEPPER_BYTES_MIN))


def open_store(config: KeysConfig) -> KeyStore:
    """The store, which need not exist yet. Raises ValueError if it cannot be used."""
    if config.redis is not None:
        return _open_redis(config.redis, config.read_s)
    from serve_app.access.sqlite_store import SqliteKeyStore

    return SqliteKeyStore(Path(str(config.file)), config.read_s)


def build_token_verifier(config: JwtConfig) -> TokenVerifier:
    """What verifies tokens. Raises ValueError if a file of the config cannot be used."""
    with _named("access.jwt"):
        from serve_app.access.jwt_tokens import TokenVerifier, TrustedIssuer

        issuers = [
            TrustedIssuer(issuer, _build_token_keys(number, issuer, config))
            for number, issuer in enumerate(config.issuers)
        ]
        return TokenVerifier(config, issuers)


def build_certificate_reader(config: CertificatesConfig) -> CertificateReader:
    """What reads certificates. Raises ValueError if the secret cannot be used."""
    with _named("access.certificates.secret"):
        from serve_app.access.certificates import CertificateReader

        return CertificateReader(config, read_secret(config.secret, SECRET_BYTES_MIN))


def _build_token_keys(number: int, issuer: IssuerConfig, config: JwtConfig) -> TokenKeys:
    from serve_app.access.jwks import JwksKeys, SharedSecret

    where = f"access.jwt.issuers.{number}"
    if issuer.secret is not None:
        with _named(f"{where}.secret"):
            return SharedSecret(read_secret(issuer.secret, SECRET_BYTES_MIN))
    with _named(f"{where}.ca_file: {issuer.ca_file}"):
        return JwksKeys(issuer, config)


def _open_redis(config: KeysRedisConfig, wait_s: float) -> KeyStore:
    with _named(f"{KEYS}.redis.password"):
        password = None if config.password is None else read_secret(config.password).decode()
    with _named(f"{KEYS}.redis"):
        from serve_app.access.redis_store import RedisKeyStore

        return RedisKeyStore(config.url, config.prefix, wait_s, password, config.ca_file)


@contextmanager
def _named(key: str) -> Iterator[None]:
    """Turn what a wrong file or a missing package raises into a ValueError that names the key."""
    try:
        yield
    except ConfigError as error:
        raise ValueError(f"{key}: {error}") from None
    except OSError as error:
        raise ValueError(f"{key}: {error.strerror or 'cannot be read'}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{key}: not UTF-8") from None
    except ModuleNotFoundError as error:
        extra = "redis" if error.name == "redis" else "access"
        hint = f"pip install 'serve-app[{extra}]' brings it"
        raise ValueError(f"{key}: {error.name} is not installed here; {hint}") from None
