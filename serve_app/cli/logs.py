"""`serve-app logs`: the logs of all nodes in one stream, in the order of time."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

import orjson
import typer
from ray.util.state import get_log, list_logs, list_nodes
from ray.util.state.exception import RayStateApiException

from serve_app.cli.reload import ClusterOption
from serve_app.deploy.live import ServiceNotFound, open_cluster

GLOB = "serve/*"
WANTED = re.compile(r"serve/(access_.*\.jsonl|(replica|controller|proxy|haproxy)_.*\.log)$")
SERVE_LINE = re.compile(r"^(?:\S+ )?(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[,.]\d{3}) ")
TAIL = 2000
TIMEOUT_S = 30
AGE_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line of a log, with the lines that follow it without a time of their own."""

    at: float
    source: str
    text: str


def logs(
    request_id: Annotated[
        str | None, typer.Option(help="Only the lines of one call: the answer's x-request-id.")
    ] = None,
    grep: Annotated[
        str | None, typer.Option(help="Only lines that match this regular expression.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="Only the last seconds, minutes or hours: 30s, 10m, 2h.")
    ] = None,
    tail: Annotated[
        int,
        typer.Option(min=1, max=1_000_000, help="Lines that are read from the end of each log."),
    ] = TAIL,
    cluster: ClusterOption = "auto",
) -> None:
    """Print the access logs and Serve's logs of all nodes, in the order of time.

    Serve writes the logs of replicas in batches, so their newest lines may be missing.
    """
    pattern = _compile(grep)
    begin_at = 0.0 if since is None else datetime.now(UTC).timestamp() - parse_age(since)
    try:
        with open_cluster(cluster):
            found = sorted(read_lines(tail), key=lambda line: line.at)
    except (ServiceNotFound, RayStateApiException, ConnectionError) as error:
        typer.echo(str(error).splitlines()[0], err=True)
        raise typer.Exit(1) from None
    for line in select(found, request_id, pattern, begin_at):
        moment = datetime.fromtimestamp(line.at, UTC)
        typer.echo(f"{moment:%H:%M:%S}.{moment.microsecond // 1000:03d} {line.source}: {line.text}")


def _compile(pattern: str | None) -> re.Pattern[str] | None:
    try:
        return None if pattern is None else re.compile(pattern)
    except re.error as error:
        raise typer.BadParameter(f"not a regular expression: {error}") from None


def parse_age(text: str) -> float:
    """The seconds of an age such as 30s, 10m, 2h or 1d.

    Raises:
        typer.BadParameter: it is none.
    """
    found = re.fullmatch(r"(\d{1,6})([smhd])", text)
    if found is None:
        raise typer.BadParameter(f"'{text}' is not an age; write 30s, 10m, 2h or 1d")
    return int(found[1]) * AGE_UNITS_S[found[2]]


def read_lines(tail: int) -> Iterator[LogLine]:
    """The ends of all logs of all living nodes."""
    for node in list_nodes(filters=[("state", "=", "ALIVE")]):
        listed = list_logs(node_id=node.node_id, glob_filter=GLOB, timeout=TIMEOUT_S)
        for name in sorted({name for names in listed.values() for name in names}):
            if WANTED.search(name):
                chunks = get_log(
                    node_id=node.node_id,
                    filename=name,
                    tail=tail,
                    timeout=TIMEOUT_S,
                )
                source = f"{node.node_ip} {name.rpartition('/')[2].rpartition('.')[0]}"
                yield from parse_lines(source, "".join(chunks).splitlines())


def parse_lines(source: str, lines: Iterable[str]) -> Iterator[LogLine]:
    """The lines of one log; what has no time belongs to the line before it."""
    at, held = 0.0, list[str]()
    for line in lines:
        found = find_time(line)
        if found is not None:
            if held:
                yield LogLine(at, source, "\n".join(held))
            at, held = found, []
        held.append(line)
    if held:
        yield LogLine(at, source, "\n".join(held))


def find_time(line: str) -> float | None:
    """When a line was written: Serve's in the node's local time, ours in UTC."""
    if line.startswith("{"):
        try:
            return datetime.fromisoformat(orjson.loads(line)["time"]).timestamp()
        except (KeyError, TypeError, ValueError):
            return None
    found = SERVE_LINE.match(line)
    return (
        datetime.fromisoformat(found[1].replace(",", ".")).astimezone().timestamp()
        if found
        else None
    )


def select(
    lines: Iterable[LogLine],
    request_id: str | None,
    pattern: re.Pattern[str] | None,
    begin_at: float,
) -> Iterator[LogLine]:
    """The lines that were asked for."""
    for line in lines:
        named = request_id is None or request_id in line.text
        if named and line.at >= begin_at and (pattern is None or pattern.search(line.text)):
            yield line
