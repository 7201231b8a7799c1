"""`serve-app keys`: make, list, show, rotate and revoke API keys."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, NoReturn

import orjson
import typer
from rich import box
from rich.console import Console
from rich.table import Table

from serve_app.access.key_admin import KeyAdmin, KeyOwner, open_key_admin
from serve_app.access.key_view import describe_key
from serve_app.access.keys import ApiKey, is_key_id, parse_key
from serve_app.access.store import KeyStoreUnavailable
from serve_app.access.stored_key import StoredKey
from serve_app.config.jwt import TENANT_PATTERN
from serve_app.config.keys import KeysConfig
from serve_app.config.reader import ConfigError, read_serve_config

UNITS_S = {"m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
SPAN_MAX_S = 100 * 366 * 86_400
COLUMNS = ("key_id", "tenant", "user", "roles", "name", "state", "expires_at", "last_used_at")
WIDTH = 200
"""Of a table that does not go to a terminal."""

ConfigFile = Annotated[
    Path, typer.Argument(help="The Serve config file whose `access.keys` names the store.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Key = Annotated[
    str, typer.Argument(help="The id of a key, for example of `keys list`, or a whole key.")
]


def parse_name(text: str) -> str:
    """A tenant or a role. Raises typer.BadParameter for a text that is none."""
    if re.fullmatch(TENANT_PATTERN, text) is None:
        raise typer.BadParameter("use letters, digits and ._:@/+- (at most 128)")
    return text


def parse_label(text: str) -> str:
    """A user or a name of a key. Raises typer.BadParameter for a text that is none."""
    if not 0 < len(text) <= 128 or not text.isprintable():
        raise typer.BadParameter("use 1 to 128 printable characters")
    return text


def parse_span(text: str) -> int:
    """The seconds of `90d`, `12h`, `30m` or `0`. Raises typer.BadParameter for another text."""
    match = re.fullmatch(r"(\d{1,9})([mhdw])", text, re.ASCII)
    seconds = 0 if text == "0" else int(match[1]) * UNITS_S[match[2]] if match else -1
    if not 0 <= seconds <= SPAN_MAX_S:
        raise typer.BadParameter("write a time as 30m, 12h, 90d or 52w")
    return seconds


def parse_expiry(text: str) -> int:
    """The end of `90d` or of a date, in seconds since 1970; a date ends when its day begins."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return int(time.time()) + parse_span(text)
    seconds = (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()
    if seconds <= time.time():
        raise typer.BadParameter("this time is over")
    return int(seconds)


def create(
    config: ConfigFile,
    tenant: Annotated[str, typer.Option(parser=parse_name, help="Tenant that the key is for.")],
    user: Annotated[
        str | None, typer.Option(parser=parse_label, help="User within the tenant.")
    ] = None,
    role: Annotated[
        list[str] | None,
        typer.Option(parser=parse_name, help="A role of `access.roles`; may be repeated."),
    ] = None,
    expires: Annotated[
        int | None,
        typer.Option(
            parser=parse_expiry,
            metavar="TIME",
            help="After a time (90d, 12h) or at a date (2027-01-31, in UTC). Default: never.",
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(parser=parse_label, help="What the key is used for.")
    ] = None,
    json: Json = False,
) -> None:
    """Make a key and show it, this once; makes the store if it does not exist.

    Only a keyed hash of the key is kept. Routers take the key after `access.keys.poll_s`.
    """
    owner = KeyOwner(tenant, user, tuple(role or ()), name, expires)
    with _opened(config) as admin:
        key, stored = admin.create(owner)
    _show_secret(key, stored, json)


def list_keys(
    config: ConfigFile,
    tenant: Annotated[str | None, typer.Option(help="Only the keys of this tenant.")] = None,
    json: Json = False,
) -> None:
    """List all keys with their state and their last use.

    A Router writes down last uses every `access.keys.last_used_s`.
    """
    with _opened(config) as admin:
        found = admin.list()
    rows = [_view(used.key, used.last_used_at) for used in found]
    rows = [row for row in rows if tenant in (None, row["tenant"])]
    if json:
        _print_json(rows)
        return
    table = Table(*(column.upper().replace("_", " ") for column in COLUMNS), box=box.SIMPLE)
    for row in rows:
        table.add_row(*(_cell(row[column]) for column in COLUMNS))
    terminal = Console(highlight=False, markup=False)
    console = terminal if terminal.is_terminal else Console(width=WIDTH, markup=False)
    console.print(table)


def show(config: ConfigFile, key: Key, json: Json = False) -> None:
    """Show everything that is kept of a key, except its hash."""
    key_id = _key_id(key)
    with _opened(config) as admin:
        found = admin.find(key_id)
    if found is None:
        _fail_unknown(key_id)
    _show(_view(found.key, found.last_used_at), json)


def rotate(
    config: ConfigFile,
    key: Key,
    overlap: Annotated[
        str,
        typer.Option(
            metavar="TIME",
            help="Time for which the old secret stays valid too: 30m, 24h, 7d; 0 for none.",
        ),
    ] = "24h",
    json: Json = False,
) -> None:
    """Give a key a new secret and show it, this once; the old one stays valid for a time.

    The key keeps its id, tenant, user, roles and expiry. A secret older than the old one ends now.
    """
    key_id, overlap_s = _key_id(key), parse_span(overlap)
    with _opened(config) as admin:
        rotated = admin.rotate(key_id, overlap_s)
    if rotated is None:
        _fail_unknown(key_id, " that is not revoked")
    _show_secret(*rotated, json)


def revoke(config: ConfigFile, key: Key, json: Json = False) -> None:
    """End a key for good; every Router refuses it within 5 seconds.

    A Router that cannot reach the store refuses it after `access.keys.stale_max_s` at the latest.
    """
    key_id = _key_id(key)
    with _opened(config) as admin:
        stored = admin.revoke(key_id)
    if stored is None:
        _fail_unknown(key_id)
    _show(_view(stored, None), json)


@contextmanager
def _opened(path: Path) -> Iterator[KeyAdmin]:
    """The keys of a config; an error is one clear line and exit code 2."""
    try:
        with open_key_admin(_keys_config(path)) as admin:
            yield admin
    except KeyStoreUnavailable as error:
        typer.echo(f"{path}: access.keys: {error}", err=True)
    except (ConfigError, ValueError) as error:
        typer.echo(f"{path}: {error}", err=True)
    else:
        return
    raise typer.Exit(2)


def _keys_config(path: Path) -> KeysConfig:
    access = read_serve_config(path).runtime.access
    if access is None or access.keys is None:
        raise ConfigError("Router.user_config: access.keys is not set, so there are no keys")
    return access.keys


def _key_id(text: str) -> str:
    """The id of an id or of a whole key, which is what a secret scanner finds."""
    key = parse_key(text)
    if key is None and not is_key_id(text):
        typer.echo("That is neither the id of a key nor a whole key.", err=True)
        raise typer.Exit(2)
    return text if key is None else key.key_id


def _fail_unknown(key_id: str, which: str = "") -> NoReturn:
    typer.echo(f"There is no key {key_id}{which}.", err=True)
    raise typer.Exit(1)


def _view(key: StoredKey, last_used_at: int | None) -> dict[str, object]:
    return describe_key(key, last_used_at, time.time())


def _show_secret(key: ApiKey, stored: StoredKey, json: bool) -> None:
    """Print the key: on standard output, so that it can be piped into a store of secrets."""
    _show({"key": key.text, **_view(stored, None)}, json)
    typer.echo("This is the only time that the key is shown.", err=True)


def _show(view: Mapping[str, object], json: bool) -> None:
    if json:
        _print_json(view)
        return
    # Not a table of rich, which would break a key into two lines in a narrow terminal.
    for name, value in view.items():
        typer.echo(f"{name.replace('_', ' '):<18}{_cell(value)}")


def _cell(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(value) or "-"
    return "-" if value is None else str(value)


def _print_json(document: Mapping[str, object] | Sequence[object]) -> None:
    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    typer.echo(orjson.dumps(document, option=options), nl=False)
