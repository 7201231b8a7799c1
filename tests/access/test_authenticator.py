"""Which proof of a request counts, and what a wrong config says."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from serve_app.access.authentication import build_authenticator
from serve_app.access.authenticator import Authenticator, read_proof
from serve_app.access.digest import Pepper
from serve_app.access.keys import ApiKey, create_key
from serve_app.access.sqlite_store import SqliteKeyStore
from serve_app.access.stored_key import StoredKey
from serve_app.config.jwt import JwtConfig
from serve_app.config.keys import KeysConfig
from serve_app.core.caller import Credentials
from serve_app.core.errors import Unauthorized
from tests.access.issuer import public_jwk, run_issuer, token
from tests.redis_server import free_port

DOCS = Path(__file__).parents[2] / "docs/keys.md"
SECRET = b"a pepper of more than 32 bytes, or so"


@pytest.fixture
def keys(tmp_path: Path) -> KeysConfig:
    """A store with a pepper and no keys."""
    (tmp_path / "pepper").write_bytes(SECRET + b"\n")
    path = tmp_path / "keys.sqlite"
    SqliteKeyStore(path, 1).create(Pepper(SECRET).check)
    return KeysConfig.model_validate(
        {"file": str(path), "pepper": {"file": str(tmp_path / "pepper")}}
    )


def add(keys: KeysConfig) -> ApiKey:
    """A new key of the tenant acme."""
    key = create_key()
    digest = Pepper(SECRET).digest(key.text)
    stored = StoredKey(key.key_id, digest, "acme", None, (), None, 0)
    SqliteKeyStore(Path(str(keys.file)), 1).add(stored)
    return key


@asynccontextmanager
async def opened(keys: KeysConfig | None, jwt: JwtConfig | None) -> AsyncIterator[Authenticator]:
    authenticator = build_authenticator(keys, jwt)
    authenticator.start()
    authenticator.start()
    yield authenticator
    await authenticator.close()


def bearer(text: str, scheme: str = "Bearer") -> Credentials:
    return Credentials(authorization=f"{scheme} {text}".encode())


async def test_keys_and_tokens_in_either_header(keys: KeysConfig) -> None:
    """OpenAI's header and Anthropic's, and both of them with the same proof."""
    key = add(keys)
    async with run_issuer(public_jwk("RS256")) as issuer, opened(keys, issuer.config()) as found:
        for proof, key_id in ((key.text, key.key_id), (token(), None)):
            data = proof.encode()
            for credentials in (
                bearer(proof),
                bearer(proof, "bearer"),
                bearer(f"  {proof} "),
                Credentials(api_key=data),
                Credentials(authorization=b"Bearer " + data, api_key=data),
                Credentials(api_key=data, certificate=b"CN=rival", peer="10.0.0.1"),
            ):
                identity = await found.identify(credentials)
                assert (identity.tenant, identity.key_id) == ("acme", key_id)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"authorization": b""},
        {"authorization": b"Bearer"},
        {"authorization": b"Bearer "},
        {"authorization": b"Basic YWJjOmRlZg=="},
        {"authorization": b"KEY"},
        {"authorization": b"Bearer KEY KEY"},
        {"authorization": b"Bearer KEY,"},
        {"authorization": b"Bearer \xff\xfe"},
        {"authorization": b"Bearer KEY\x00"},
        {"authorization": b"Bearer " + b"x" * 1_000_000},
        {"authorization": b"Bearer unused"},
        {"api_key": b""},
        {"api_key": b"Bearer KEY"},
        {"api_key": b"KEY KEY"},
        {"authorization": b"Bearer KEY", "api_key": b"sk-other"},
        {"authorization": b"Bearer KEY", "api_key": b""},
        {"authorization": b"Basic eA==", "api_key": b"KEY"},
        {"certificate": b"CN=acme"},
    ],
    ids=lambda values: str(values)[:60],
)
async def test_a_wrong_header_is_a_401(keys: KeysConfig, values: dict[str, bytes]) -> None:
    """Malformed, doubled or contradictory, never a 500, although the key itself is good."""
    key = add(keys).text.encode()
    async with run_issuer(public_jwk("RS256")) as issuer, opened(keys, issuer.config()) as found:
        sent = {name: value.replace(b"KEY", key) for name, value in values.items()}
        with pytest.raises(Unauthorized):
            await found.identify(Credentials(**sent))  # type: ignore[arg-type]  # only bytes here


@given(st.none() | st.binary(max_size=100), st.none() | st.binary(max_size=100))
def test_any_bytes_are_a_proof_or_a_401(authorization: bytes | None, api_key: bytes | None) -> None:
    """Whatever a client sends."""
    try:
        proof = read_proof(Credentials(authorization, api_key))
    except Unauthorized:
        return
    assert proof.isascii()
    assert proof.isprintable()


async def test_no_log_holds_a_secret(keys: KeysConfig, caplog: pytest.LogCaptureFixture) -> None:
    """At the lowest level, with the libraries' own logs, for good and bad proofs alike."""
    caplog.set_level(logging.DEBUG)
    key, unknown, good = add(keys), create_key(), token()
    proofs = (key.text, unknown.text, good, f"{good}x", good.replace(".", "", 1))
    async with run_issuer(public_jwk("RS256")) as issuer, opened(keys, issuer.config()) as found:
        for proof in proofs:
            with suppress(Unauthorized):
                await found.identify(bearer(proof))
    assert "connect_tcp" in caplog.text, "the log is on"
    secrets = (SECRET.decode(), key.text[21:], unknown.text[21:], good.rpartition(".")[2])
    assert [secret for secret in secrets if secret in caplog.text] == []


async def test_a_kind_of_proof_that_is_off_is_a_401(keys: KeysConfig) -> None:
    """Keys only, tokens only, neither."""
    key = add(keys)
    async with run_issuer(public_jwk("RS256")) as issuer:
        for config, proof in (((keys, None), token()), ((None, issuer.config()), key.text)):
            async with opened(*config) as found:
                with pytest.raises(Unauthorized):
                    await found.identify(bearer(proof))
    async with opened(None, None) as found:
        with pytest.raises(Unauthorized):
            await found.identify(bearer(key.text))


def test_an_unreadable_store_stops_a_start(keys: KeysConfig, tmp_path: Path) -> None:
    """One line that names the key of the config and the file."""
    path = tmp_path / "other.sqlite"
    missing = keys.model_copy(update={"file": str(path)})
    with pytest.raises(ValueError, match=rf"^access\.keys: {path}: No such file.*keys create"):
        build_authenticator(missing, None)
    path.write_bytes(b"something else" * 100)
    with pytest.raises(ValueError, match=rf"^access\.keys: {path}: file is not a database"):
        build_authenticator(missing, None)
    redis = {"url": f"redis://127.0.0.1:{free_port()}/0"}
    away = KeysConfig.model_validate({"redis": redis, "pepper": keys.pepper})
    with pytest.raises(ValueError, match=r"^access\.keys: the Redis cannot be used"):
        build_authenticator(away, None)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file"),
        (b"short\n", "has 5 bytes; at least 32 are needed"),
        (b"another pepper, as long as it must be", "the pepper is not the one"),
    ],
)
def test_a_wrong_pepper_stops_a_start(
    keys: KeysConfig, tmp_path: Path, content: bytes | None, words: str
) -> None:
    """It is missing, too short, or not the pepper of the store's keys; it is never quoted."""
    path = tmp_path / "pepper"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"^access\.keys.*{words}") as error:
        build_authenticator(keys, None)
    assert len(str(error.value).splitlines()) == 1
    assert content is None or content.decode() not in str(error.value)


def test_a_pepper_may_be_in_the_environment(
    keys: KeysConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For machines that hand out secrets that way."""
    values = {"file": keys.file, "pepper": {"variable": "SERVE_APP_PEPPER"}}
    config = KeysConfig.model_validate(values)
    with pytest.raises(ValueError, match="environment variable SERVE_APP_PEPPER: has 0 bytes"):
        build_authenticator(config, None)
    monkeypatch.setenv("SERVE_APP_PEPPER", SECRET.decode())
    assert build_authenticator(config, None)


def test_a_wrong_file_of_an_issuer_is_named(tmp_path: Path) -> None:
    """By its place in the config."""
    good = {"issuer": "https://a", "audiences": ["a"], "tenant_default": "a"}
    public = {**good, "jwks_url": "https://a/jwks", "ca_file": str(tmp_path / "no.pem")}
    shared = {**good, "algorithms": ["HS256"], "secret": {"file": str(tmp_path / "no")}}
    for issuer, where in ((public, "ca_file"), (shared, "secret")):
        config = JwtConfig.model_validate({"issuers": [issuer]})
        with pytest.raises(ValueError, match=rf"^access\.jwt\.issuers\.0\.{where}: .*No such file"):
            build_authenticator(None, config)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"redis": {"url": "redis://:s3cret@127.0.0.1/0"}, "file": None}, "password"),
        ({"redis": {"url": "http://127.0.0.1"}, "file": None}, "pattern"),
        ({"redis": {"url": "redis://127.0.0.1", "ca_file": "/ca"}, "file": None}, "rediss"),
        ({"redis": {"url": "redis://127.0.0.1"}}, "either file or redis"),
        ({"file": None}, "either file or redis"),
        ({"pepper": {}}, "either file or variable"),
        ({"pepper": {"file": "pepper"}}, "absolute path"),
        ({"file": "keys.sqlite"}, "absolute path"),
        ({"poll_s": 5}, "poll_s"),
    ],
)
def test_a_wrong_config_of_keys_is_refused(
    keys: KeysConfig, values: dict[str, object], words: str
) -> None:
    """No password in a config, one place for the keys, and looks that are frequent enough."""
    with pytest.raises(ValueError, match=words):
        KeysConfig.model_validate({**keys.model_dump(), **values})


IMPORT = """
import sys
from serve_app.access import authentication
assert not {"jwt", "cryptography", "redis", "httpx"} & set(sys.modules), "imported too early"
sys.modules[sys.argv[1]] = None
from serve_app.config.jwt import JwtConfig
from serve_app.config.keys import KeysConfig
keys = KeysConfig.model_validate({"redis": {"url": "redis://127.0.0.1"}, "pepper": {"file": "/p"}})
issuer = {"issuer": "a", "audiences": ["a"], "tenant_default": "a", "jwks_url": "https://a/"}
jwt = JwtConfig.model_validate({"issuers": [issuer]})
try:
    authentication.build_authenticator(*((keys, None) if sys.argv[1] == "redis" else (None, jwt)))
except ValueError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("module", "extra"), [("redis", "redis"), ("jwt", "access"), ("cryptography", "access")]
)
def test_a_missing_extra_is_one_line(module: str, extra: str) -> None:
    """A Router without a package that its config needs says which; it imports none before."""
    command = [sys.executable, "-c", IMPORT, module]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    [line] = done.stdout.splitlines()
    assert line.endswith(
        f"{module} is not installed here; pip install 'serve-app[{extra}]' brings it"
    )


def test_the_configs_of_the_docs_are_valid() -> None:
    """An operator begins with a copy of them."""
    blocks = re.findall(r"```yaml\n(.*?)```", DOCS.read_text(), re.DOTALL)
    keys, jwt = (yaml.safe_load(block)["access"] for block in blocks)
    assert KeysConfig.model_validate(keys["keys"]).file is not None
    assert JwtConfig.model_validate(jwt["jwt"]).issuers[0].tenants_allowed is not None
