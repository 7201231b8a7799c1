"""`serve-app audit`: keys of the audit log, its verification and its sums."""

from __future__ import annotations

import csv
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, NoReturn

import orjson
import typer
from rich import box
from rich.console import Console
from rich.table import Table

from serve_app.audit.audit_report import (
    Group,
    Period,
    Row,
    read_calls,
    render_row,
    sum_calls,
    total,
)
from serve_app.audit.seal import BadKey, read_checker, write_keys
from serve_app.audit.verify import ChainReport, verify_directory
from serve_app.core.money import to_units

_JSON = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
_WIDTH_MIN = 140

Log = Annotated[
    Path, typer.Argument(metavar="DIR", help="`audit.directory`, or a copy of it.", exists=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def keygen(
    path: Annotated[Path, typer.Argument(help="The key file; FILE.pub gets the public half.")],
) -> None:
    """Make a key for the audit log: the file for `audit.key_file`, and the public key to verify.

    Exit code 0: made. 2: a file exists already or cannot be written.
    """
    try:
        public, key_id = write_keys(path)
    except OSError as error:
        _give_up(f"{error.filename}: {error.strerror}")
    typer.echo(f"{path}: the private key {key_id}, for audit.key_file; only its owner may read it")
    typer.echo(f"{public}: the public key, for `serve-app audit verify --key`")


def verify(
    directory: Log,
    keys: Annotated[
        list[Path],
        typer.Option("--key", help="A public (or private) key of the log; repeat it for old keys."),
    ],
    state: Annotated[
        Path | None,
        typer.Option(
            help="`audit.state_directory`, or a copy of it. Default: the directory of the first "
            "key, if it holds newest seals."
        ),
    ] = None,
    json: AsJson = False,
) -> None:
    """Find every record that was edited, dropped, inserted, moved or cut off, by file and line.

    Exit code 0: the log is as it was written. 1: it is not. 2: it could not be checked.
    """
    try:
        checker = read_checker(keys)
        where = _find_state(keys[0].parent) if state is None else state
        reports = verify_directory(directory, where, checker)
    except BadKey as error:
        _give_up(str(error))
    except OSError as error:
        _give_up(f"{error.filename}: {error.strerror}")
    if not reports:
        _give_up(f"{directory}: there is no audit log")
    if json:
        _print_json([{**asdict(report), "ok": report.ok} for report in reports])
    else:
        for line in _describe(reports, with_state=where is not None):
            typer.echo(line)
    raise typer.Exit(0 if all(report.ok for report in reports) else 1)


def report(
    directory: Log,
    by: Annotated[
        str, typer.Option(help="Groups, by commas, of: tenant, key, tier, day.")
    ] = "tenant",
    since: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="The first day that counts (UTC).")
    ] = None,
    until: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="The last day that counts (UTC).")
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV instead of a table.")] = False,
    json: AsJson = False,
) -> None:
    """Sum calls, errors, tokens, money and savings of an audit log.

    The log is not verified: `serve-app audit verify` does that. Exit code 0: summed. 2: the log
    cannot be read.
    """
    groups = _parse_groups(by)
    period = Period(_day(since), _day(until))
    try:
        rows = sum_calls(read_calls(directory), groups, period)
    except (OSError, EOFError, zlib.error) as error:
        _give_up(f"{directory}: {error}")
    if json:
        document = {
            "rows": [render_row(row, groups) for row in rows],
            "total": [render_row(row, ()) for row in total(rows)],
        }
        _print_json(document)
    elif as_csv:
        _print_csv(rows, groups)
    else:
        Console(width=max(_WIDTH_MIN, Console().width)).print(_build_table(rows, groups))


def _find_state(directory: Path) -> Path | None:
    return directory if any(directory.glob("*.seal")) else None


def _describe(reports: Sequence[ChainReport], *, with_state: bool) -> Iterator[str]:
    for found in reports:
        for finding in found.findings:
            yield f"error: {finding}"
        yield f"{found.chain}: {'as it was written' if found.ok else 'NOT as it was written'}"
        yield f"  {found.files} files, {found.records} records, {found.calls} calls"
        yield from (f"  {note}" for note in _notes(found))
    if not with_state:
        yield "note: without the newest seals (--state), a log whose end was cut off in the log and"
        yield "  in its file of seals alike, or a chain that is gone, is not found."


def _notes(found: ChainReport) -> Iterator[str]:
    if found.deleted_to:
        yield f"records up to {found.deleted_to} were deleted by retention"
    if found.killed:
        yield f"{found.killed} times a Router was killed: its last unwritten calls have no record"
    if found.torn_bytes:
        yield f"{found.torn_bytes} bytes of records were not finished when a Router was killed"
    if found.lost or found.refused:
        yield f"{found.lost} calls were answered without a record, {found.refused} were refused"
    if found.unsealed:
        yield f"the last {found.unsealed} records are not signed yet"
    if not found.ended:
        yield "the chain has no end: its Router runs, or was killed"


def _parse_groups(by: str) -> list[Group]:
    try:
        return [Group(name.strip()) for name in by.split(",") if name.strip()]
    except ValueError as error:
        raise typer.BadParameter(f"{error}; choose of {', '.join(Group)}") from None


def _day(time: datetime | None) -> date | None:
    return None if time is None else time.date()


def _build_table(rows: Sequence[Row], groups: Sequence[Group]) -> Table:
    table = Table(*(group.value for group in groups), box=box.SIMPLE)
    names = ("calls", "errors", "from cache", "tokens in", "of it cached", "tokens out", "drafts")
    for name in (*names, "cost", "saved", "currency"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row.group, *_cells(row))
    if groups:
        for row in total(rows):
            table.add_row("total", *[""] * (len(groups) - 1), *_cells(row), style="bold")
    return table


def _cells(row: Row) -> Iterator[str]:
    sums = row.sums
    counts = (
        sums.calls, sums.errors, sums.cached, sums.prompt_tokens, sums.cached_tokens,
        sums.completion_tokens, sums.draft_tokens,
    )  # fmt: skip
    yield from (f"{count:,}" for count in counts)
    priced = sums.unpriced < sums.calls
    for nanos in (sums.cost_nanos, sums.saved_nanos):
        yield f"{to_units(nanos):,.4f}" if priced else "-"
    yield row.currency


def _print_csv(rows: Sequence[Row], groups: Sequence[Group]) -> None:
    documents = [render_row(row, groups) for row in rows]
    names = list(render_row(Row(("",) * len(groups), "", rows[0].sums), groups)) if rows else []
    writer = csv.DictWriter(sys.stdout, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(documents)


def _print_json(document: object) -> None:
    typer.echo(orjson.dumps(document, option=_JSON, default=str), nl=False)


def _give_up(why: str) -> NoReturn:
    typer.echo(why, err=True)
    raise typer.Exit(2)
