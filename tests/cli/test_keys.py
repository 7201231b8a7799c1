"""`serve-app keys` on a real store, with the config that Routers have."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from serve_app.access.authentication import build_key_ring
from serve_app.access.keys import create_key, parse_key
from serve_app.access.sqlite_store import SqliteKeyStore
from serve_app.cli.main import app
from serve_app.config.reader import read_serve_config
from serve_app.core.errors import Unauthorized

LOCAL = Path(__file__).parents[2] / "configs/local.yaml"
Run = Callable[..., Result]


def write_config(directory: Path, keys: dict[str, Any] | None) -> Path:
    """`configs/local.yaml` with this `access.keys`."""
    document = yaml.safe_load(LOCAL.read_text())
    [router] = document["applications"][0]["deployments"]
    if keys is not None:
        router["user_config"]["access"] = {"keys": keys}
    path = directory / "serve.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A config whose store does not exist yet."""
    (tmp_path / "pepper").write_bytes(b"p" * 32)
    keys = {"file": str(tmp_path / "keys.sqlite"), "pepper": {"file": str(tmp_path / "pepper")}}
    return write_config(tmp_path, keys)


@pytest.fixture
def run(config: Path) -> Run:
    """Runs `serve-app keys COMMAND CONFIG ...`."""

    def run(command: str, *arguments: str) -> Result:
        return CliRunner().invoke(app, ["keys", command, str(config), *arguments])

    return run


def good(result: Result) -> Any:
    """The JSON of a command that succeeded."""
    assert (result.exit_code, result.exception) == (0, None), result.stderr
    return json.loads(result.stdout)


def takes(config: Path, text: str) -> bool:
    """Whether a Router that starts now takes the key."""
    access = read_serve_config(config).runtime.access
    assert access is not None
    assert access.keys is not None
    try:
        return build_key_ring(access.keys).identify(text).tenant == "acme"
    except Unauthorized:
        return False


def test_a_key_is_made_and_shown_once(run: Run, config: Path) -> None:
    """A Router takes it; no later command knows it."""
    result = run(
        *("create", "--tenant", "acme", "--user", "ann", "--role", "dev", "--role", "ops"),
        *("--expires", "90d", "--name", "CI of ann", "--json"),
    )
    made = good(result)
    assert "only time" in result.stderr
    assert parse_key(made["key"]) is not None
    assert takes(config, made["key"])
    shown = good(run("show", made["key_id"], "--json"))
    assert {**shown, "key": made["key"]} == made
    assert (shown["tenant"], shown["user"], shown["name"]) == ("acme", "ann", "CI of ann")
    assert (shown["roles"], shown["state"]) == (["dev", "ops"], "active")
    for command in (run("list"), run("list", "--json"), run("show", made["key_id"])):
        assert command.exit_code == 0
        assert made["key_id"] in command.stdout
        assert made["key"] not in command.stdout


def test_the_table_of_one_key_does_not_break_the_key(run: Run, config: Path) -> None:
    """It can be copied from a narrow terminal."""
    lines = run("create", "--tenant", "acme").stdout.splitlines()
    name, _, key = lines[0].partition(" ")
    assert name == "key"
    assert takes(config, key.strip())
    assert any(line.split() == ["expires", "at", "-"] for line in lines)


def test_a_list_shows_states_and_last_uses(run: Run, config: Path) -> None:
    """The oldest first; a filter by tenant."""
    ids = [
        good(run("create", "--tenant", tenant, "--json"))["key_id"] for tenant in ("acme", "rival")
    ]
    run("revoke", ids[1])
    SqliteKeyStore(config.parent / "keys.sqlite", 1).note_used({ids[0]: 1_800_000_000})
    rows = {row["key_id"]: row for row in good(run("list", "--json"))}
    assert [rows[key_id]["state"] for key_id in ids] == ["active", "revoked"]
    assert [rows[key_id]["last_used_at"] for key_id in ids] == ["2027-01-15T08:00:00Z", None]
    assert [row["key_id"] for row in good(run("list", "--tenant", "rival", "--json"))] == ids[1:]
    table = run("list").stdout
    assert "LAST USED AT" in table
    assert "2027-01-15T08:00:00Z" in table


def test_a_rotation_keeps_the_old_secret_for_a_time(run: Run, config: Path) -> None:
    """Both are valid with an overlap, only the new one without."""
    old = good(run("create", "--tenant", "acme", "--json"))
    new = good(run("rotate", old["key_id"], "--json"))
    assert new["key_id"] == old["key_id"]
    assert new["old_secret_until"] is not None
    assert takes(config, old["key"])
    assert takes(config, new["key"])
    newest = good(run("rotate", old["key_id"], "--overlap", "0", "--json"))
    assert [takes(config, made["key"]) for made in (old, new, newest)] == [False, False, True]


def test_a_revoked_key_stays_revoked(run: Run, config: Path) -> None:
    """By its id or by the whole key, as a secret scanner finds it; again changes nothing."""
    made = good(run("create", "--tenant", "acme", "--json"))
    revoked = good(run("revoke", made["key"], "--json"))
    assert revoked["state"] == "revoked"
    assert not takes(config, made["key"])
    assert good(run("revoke", made["key_id"], "--json"))["revoked_at"] == revoked["revoked_at"]
    again = run("rotate", made["key_id"])
    assert (again.exit_code, again.stdout) == (1, "")
    assert again.stderr == f"There is no key {made['key_id']} that is not revoked.\n"


@pytest.mark.parametrize("command", ["show", "rotate", "revoke"])
def test_a_key_that_is_not_there(run: Run, command: str) -> None:
    """An unknown id is exit code 1, something else exit code 2, and neither repeats a secret."""
    good(run("create", "--tenant", "acme", "--json"))
    assert run(command, "unknown1unkn").exit_code == 1
    slipped = create_key().text[:-1]
    result = run(command, slipped)
    assert (result.exit_code, result.stdout) == (2, "")
    assert slipped not in result.stderr


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--tenant", "a b"),
        ("--tenant", "a\n"),
        ("--tenant", "acme", "--role", "dev ops"),
        ("--tenant", "acme", "--user", "a\x1b[2J"),
        ("--tenant", "acme", "--name", "x" * 129),
        ("--tenant", "acme", "--expires", "soon"),
        ("--tenant", "acme", "--expires", "2020-01-31"),
        ("--tenant", "acme", "--expires", "999999999w"),
    ],
    ids=str,
)
def test_a_wrong_option_is_named(run: Run, config: Path, options: tuple[str, ...]) -> None:
    """Nothing is made, and no store either."""
    result = run("create", *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Invalid value" in result.stderr or "Missing option" in result.stderr
    assert not (config.parent / "keys.sqlite").exists()


@pytest.mark.parametrize(
    ("text", "seconds"), [("30m", 1800), ("12h", 43_200), ("90d", 7_776_000), ("1w", 604_800)]
)
def test_a_key_expires_after_a_time(run: Run, config: Path, text: str, seconds: int) -> None:
    """The time is that of the store in whole seconds."""
    before = int(time.time())
    good(run("create", "--tenant", "acme", "--expires", text, "--json"))
    snapshot = SqliteKeyStore(config.parent / "keys.sqlite", 1).read()
    assert snapshot is not None
    [key] = snapshot.keys.values()
    assert before + seconds <= (key.expires_at or 0) <= int(time.time()) + seconds


@pytest.mark.parametrize(
    ("text", "expected"),
    [("2999-01-31", "2999-01-31T00:00:00Z"), ("2999-01-31T12:00+02:00", "2999-01-31T10:00:00Z")],
)
def test_a_key_expires_at_a_date(run: Run, text: str, expected: str) -> None:
    """In UTC, unless the date says otherwise."""
    assert (
        good(run("create", "--tenant", "acme", "--expires", text, "--json"))["expires_at"]
        == expected
    )


def test_a_wrong_store_is_one_line(run: Run, config: Path, tmp_path: Path) -> None:
    """The file of the config, the key and what is wrong; exit code 2."""
    missing = run("list")
    assert (missing.exit_code, missing.stdout) == (2, "")
    path = tmp_path / "keys.sqlite"
    assert missing.stderr == f"{config}: access.keys: {path}: No such file or directory\n"
    good(run("create", "--tenant", "acme", "--json"))
    (tmp_path / "pepper").write_bytes(b"q" * 32)
    for command in (("create", "--tenant", "acme"), ("list",), ("rotate", "unknown1unkn")):
        other = run(*command)
        assert other.exit_code == 2
        assert len(other.stderr.splitlines()) == 1
        assert "the pepper is not the one" in other.stderr


def test_a_key_can_be_revoked_without_its_pepper(run: Run, config: Path, tmp_path: Path) -> None:
    """In an emergency, the pepper may be what was lost."""
    made = good(run("create", "--tenant", "acme", "--json"))
    (tmp_path / "pepper").write_bytes(b"q" * 32)
    assert good(run("revoke", made["key_id"], "--json"))["state"] == "revoked"


def test_a_wrong_overlap_is_named(run: Run) -> None:
    """Before the key is touched."""
    result = run("rotate", "unknown1unkn", "--overlap", "soon")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "write a time as" in result.stderr


def test_a_config_without_keys_is_one_line(tmp_path: Path) -> None:
    """A config that asks for no keys has no store."""
    path = write_config(tmp_path, None)
    result = CliRunner().invoke(app, ["keys", "list", str(path)])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        f"{path}: Router.user_config: access.keys is not set, so there are no keys\n"
    )


def test_a_wrong_key_of_the_config_is_named_with_the_nearest(tmp_path: Path) -> None:
    """By `serve-app check` and by every other command that reads the config."""
    path = write_config(tmp_path, {"file": "/keys", "peper": {"file": "/pepper"}})
    result = CliRunner().invoke(app, ["check", str(path)])
    assert result.exit_code == 2
    assert "access.keys.peper: unknown key; did you mean 'pepper'?" in result.stderr
