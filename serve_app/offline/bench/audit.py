"""`serve-app bench audit`: what the audit log costs a call, and how many records it can write."""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Annotated

import orjson
import typer
from rich.console import Console

from serve_app.audit.audit_report import Group, Period, read_calls, sum_calls
from serve_app.audit.build import build_log
from serve_app.audit.log import AuditLog
from serve_app.audit.seal import read_checker, write_keys
from serve_app.audit.verify import verify_directory
from serve_app.config.audit import AuditConfig
from serve_app.core.call import Decision, Endpoint, Reason, Record, Usage
from serve_app.core.caller import Caller
from serve_app.core.content import Content
from serve_app.offline.bench.grids import Grid
from serve_app.offline.bench.journal import append_section, print_report, render_section
from serve_app.offline.bench.machine import describe_machine
from serve_app.offline.bench.options import check_outputs

_WIDTH = 120
_ROUNDS = 5
_TOKENS = 200


def audit(
    records: Annotated[int, typer.Option(min=1000, help="Records of each round.")] = 20_000,
    directory: Annotated[
        Path | None,
        typer.Option(help="Where to write: a directory on the disk to measure. Default: /tmp."),
    ] = None,
    log: Annotated[
        Path | None, typer.Option(help="Log file to which a section is appended.")
    ] = None,
) -> None:
    """Time what the audit log costs a call, and how fast it is written, verified and summed."""
    check_outputs(log)
    machine = describe_machine()
    with tempfile.TemporaryDirectory(prefix="audit-", dir=directory) as place:
        rows = list(_measure_all(Path(place), records))
    grid = Grid(
        f"Medians of {_ROUNDS} rounds of {records:,} records, with texts a tenth; CPU time of the "
        "event loop's thread for add, of the writing thread for write",
        ("texts", "add, us", "write, us", "records/s", "bytes", "verified/s", "summed/s"),
        rows,
    )
    print_report(Console(width=max(_WIDTH, Console().width)), machine, [grid])
    if log is not None:
        append_section(log, render_section(machine, "serve-app bench audit", [grid]))


def _measure_all(place: Path, records: int) -> Iterator[Sequence[str]]:
    write_keys(place / "audit.key")
    for texts in (False, True):
        count = max(1000, records // 10) if texts else records
        directory = place / f"log-{texts}"
        rounds = [_measure(place, directory, count, texts=texts) for _ in range(_ROUNDS)]
        add_s, cpu_s, wall_s = (median(values) for values in zip(*rounds, strict=True))
        total = count * _ROUNDS
        bytes_each = sum(path.stat().st_size for path in directory.glob("*.jsonl")) / total
        verify_s, sum_s = _time_reading(place, directory)
        yield (
            "prompt and answer" if texts else "none",
            f"{1e6 * add_s / count:.2f}",
            f"{1e6 * cpu_s / count:.1f}",
            f"{count / wall_s:,.0f}",
            f"{bytes_each:,.0f}",
            f"{total / verify_s:,.0f}",
            f"{total / sum_s:,.0f}",
        )


def _measure(
    place: Path, directory: Path, records: int, *, texts: bool
) -> tuple[float, float, float]:
    """CPU seconds of `check` and `add`, then CPU and wall seconds of writing the records."""
    log = _open(place, directory, records, texts=texts)
    log._writer.work()
    calls = [_make_record(number, texts=texts) for number in range(records)]
    gc.collect()
    began = time.thread_time()
    for call in calls:
        log.check()
        log.add(call)
    added = time.thread_time() - began
    wall, cpu = time.perf_counter(), time.thread_time()
    log._writer.work()
    wall, cpu = time.perf_counter() - wall, time.thread_time() - cpu
    log._writer.work(ends=True)
    return added, cpu, wall


def _open(place: Path, directory: Path, records: int, *, texts: bool) -> AuditLog:
    config = AuditConfig.model_validate(
        {
            "directory": str(directory),
            "key_file": str(place / "audit.key"),
            "waiting_max": 2 * records,
            "file_bytes_max": 1024**3,
            "content": ["prompts", "answers"] if texts else [],
        }
    )
    return build_log(config, "EUR", "bench", "bench")


def _make_record(number: int, *, texts: bool) -> Record:
    return Record(
        f"2a718035-f179-4704-adcd-{number:012}",
        Endpoint.CHAT,
        stream=True,
        decision=Decision("fast", "demo-fast", Reason.SIMPLE, 0.3694, 0.5),
        status=200,
        first_byte_s=0.05,
        total_s=2.0,
        usage=Usage(300, _TOKENS, 64),
        caller=Caller(f"tenant-{number % 20}", key_id=f"key-{number % 100}", address="10.0.0.7"),
        cost=1_000_000,
        strong_cost=9_000_000,
        content=_make_content() if texts else None,
    )


def _make_content() -> Content:
    content = Content(
        [("user", "What is the capital of France, and who lives there? " * 20)], 16000
    )
    event = {"id": "x" * 36, "choices": [{"index": 0, "delta": {"content": " word"}}]}
    content.add(b"data: %s\n\n" % orjson.dumps(event) * _TOKENS)
    return content


def _time_reading(place: Path, directory: Path) -> tuple[float, float]:
    """Seconds of the verification and of the sums of a log."""
    checker = read_checker([place / "audit.key"])
    return (
        _time(lambda: verify_directory(directory, place, checker)),
        _time(lambda: sum_calls(read_calls(directory), [Group.TENANT], Period())),
    )


def _time(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
