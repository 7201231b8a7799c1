"""`serve-app bench batch-beside-chat`: what a full batch costs clients, and clients a batch."""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Protocol

import httpx
import orjson
import typer

from serve_app import demo
from serve_app.offline.bench.bench_errors import BenchFailed, CallFailed, RequestsFailed
from serve_app.offline.bench.clocks import Clocks
from serve_app.offline.bench.generator import run_load_generator
from serve_app.offline.bench.grids import Grid
from serve_app.offline.bench.journal import append_section, print_report, render_section, write_json
from serve_app.offline.bench.machine import describe_machine
from serve_app.offline.bench.options import check_outputs
from serve_app.offline.bench.ownership import owned
from serve_app.offline.bench.phase import Outcome, Phase
from serve_app.offline.bench.results import build_console
from serve_app.offline.bench.runner import find_free_port, locked, wait_ready
from serve_app.offline.bench.summary import percentile, ratio
from serve_app.offline.bench.targets import (
    HOST,
    MODEL_ID,
    Place,
    Target,
    build_ours,
)

CHAT, BATCH, BOTH = "chat alone", "batch alone", "both"
CHAT_TOKENS = 32
LINE_TOKENS = 64
TITLE = f"Answers of {CHAT_TOKENS} tokens to clients, {LINE_TOKENS} to lines"
LINES = 2000
"""More than a phase answers; the rest is cancelled."""
LINES_BEGUN = 48
"""The lines that are answered before a phase begins: by then as many run as may."""
ENDPOINT = "/v1/chat/completions"
_SERIALS = 100_000
_POLL_S = 0.1
_START_S = 60.0
_TERMINATED = 128 + signal.SIGTERM


@dataclass(frozen=True, slots=True)
class Share:
    """One phase: the waits for first tokens in seconds, and the tokens written in a second."""

    kind: str
    first_s: Sequence[float]
    chat_tokens_per_s: float
    batch_tokens_per_s: float

    @property
    def tokens_per_s(self) -> float:
        """The tokens of both."""
        return self.chat_tokens_per_s + self.batch_tokens_per_s


def batch_beside_chat(
    clients: Annotated[int, typer.Option(min=1, help="Clients that chat.")] = 4,
    pause_s: Annotated[
        float, typer.Option(min=0, help="Mean pause of a client between two calls.")
    ] = 1.0,
    concurrency: Annotated[int, typer.Option(min=1, help="Lines that run at a time.")] = 16,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of all three phases.")] = 3,
    seconds: Annotated[float, typer.Option(min=1, help="Measured seconds of a phase.")] = 10.0,
    model: Annotated[str, typer.Option(help="The demo model: fast or strong.")] = "fast",
    json: Annotated[Path | None, typer.Option(help="JSON file for every number.")] = None,
    log: Annotated[
        Path | None, typer.Option(help="Log file to which a section is appended.")
    ] = None,
    lock: Annotated[
        Path | None, typer.Option(help="Lock this file while the service runs.")
    ] = None,
) -> None:
    """Compare chat alone, a batch alone, and both, in turn on one real service."""
    # An exception, so that the service ends in order and files are removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))
    check_outputs(json, log, lock)
    machine = describe_machine()
    phase = Phase(
        host=HOST,
        port=0,
        model=MODEL_ID,
        clients=clients,
        stream=True,
        output_tokens=CHAT_TOKENS,
        warmup_s=1.5,
        window_s=seconds,
        pause_s=pause_s,
    )
    shares = run_service(phase, model, concurrency, rounds, lock)
    grid = build_grid(shares)
    print_report(build_console(), machine, [grid])
    if json is not None:
        write_json(json, machine, shares)
    if log is not None:
        command = (
            f"serve-app bench batch-beside-chat --clients={clients} --pause-s={pause_s:g} "
            f"--concurrency={concurrency} --rounds={rounds} --seconds={seconds:g} --model={model}"
        )
        append_section(log, render_section(machine, command, [grid]))


def run_service(
    phase: Phase, model: str, concurrency: int, rounds: int, lock: Path | None
) -> list[Share]:
    """All phases on the real service.

    Raises:
        BenchFailed: the service did not answer as it should.
    """
    with locked(lock), run_load_generator() as generator, serving(model, concurrency) as port:
        url = f"http://{HOST}:{port}/v1"
        with httpx.Client(base_url=url, trust_env=False, timeout=_START_S) as http:
            return list(Bench(http, generator, replace(phase, port=port)).run(rounds))


@contextmanager
def serving(model: str, concurrency: int) -> Iterator[int]:
    """The port of this service while it runs, with batches, one tier and one engine."""
    with tempfile.TemporaryDirectory(prefix="beside-", dir="/tmp") as directory:
        scratch, port = Path(directory), find_free_port()
        target = build_service(Place(port, demo.locate(model), scratch), concurrency)
        target.write_config()
        log = scratch / "ours.log"
        with owned(target.name, target.command, target.env, log) as server:
            wait_ready(server, port, target.model)
            yield port


def build_service(place: Place, concurrency: int) -> Target:
    """This service as `bench overhead` starts it, but with batches and by priority."""
    target = build_ours(place)
    assert target.config is not None, "the service has a config"
    config = orjson.loads(orjson.dumps(target.config))
    args = config["applications"][0]["args"]
    args["tiers"][0]["engine"]["scheduling_policy"] = "priority"
    args["tiers"][0]["replicas"] = {"min": 1, "max": 1, "target_ongoing_calls": 64}
    args["tiers"][0]["max_ongoing_calls"] = 64
    batches = {"directory": str(place.scratch / "batches"), "concurrency": concurrency}
    args["runtime"]["batches"] = batches
    return replace(target, config=config)


class Clients(Protocol):
    """Ask as clients do, as `LoadGenerator`."""

    def run(
        self, phase: Phase, read_clocks: Callable[[], Clocks]
    ) -> tuple[Outcome, Clocks, Clocks]:
        """What came of one phase."""
        ...


class Bench:
    """The phases against a service."""

    def __init__(self, http: httpx.Client, generator: Clients, phase: Phase) -> None:
        """`http` reaches the service's files and batches, and `generator` its chat."""
        self._generator = generator
        self._phase = phase
        self._http = http
        self._serial = 0

    def run(self, rounds: int) -> Iterator[Share]:
        """All phases in turn, so that a drift of the machine meets all alike.

        Raises:
            BenchFailed: the service did not answer as it should.
        """
        self._ask_clients(replace(self._phase, window_s=3.0))  # The first calls do not count.
        for number in range(rounds):
            for kind in (CHAT, BATCH, BOTH):
                share = self._measure(kind)
                typer.echo(f"round {number + 1}: {render_share(share)}", err=True)
                yield share

    def _measure(self, kind: str) -> Share:
        if kind == CHAT:
            return self._share(kind, self._ask_clients(self._phase), 0.0)
        with self._batch() as batch_id:
            if kind == BATCH:
                time.sleep(self._phase.warmup_s)
                begun = self._count(batch_id)
                time.sleep(self._phase.window_s)
                return self._share(kind, None, self._per_s(batch_id, begun))
            begun = self._count(batch_id)
            outcome = self._ask_clients(self._phase)
            return self._share(kind, outcome, self._per_s(batch_id, begun))

    def _share(self, kind: str, outcome: Outcome | None, lines_per_s: float) -> Share:
        first_s = outcome.first_event_s if outcome else []
        chat_per_s = len(first_s) * CHAT_TOKENS / outcome.window_s if outcome else 0.0
        return Share(kind, first_s, chat_per_s, lines_per_s * LINE_TOKENS)

    def _ask_clients(self, phase: Phase) -> Outcome:
        self._serial += _SERIALS
        outcome, _, _ = self._generator.run(replace(phase, first_serial=self._serial), no_clocks)
        if outcome.errors:
            raise RequestsFailed("ours", phase.label, outcome.errors, "")
        return outcome

    @contextmanager
    def _batch(self) -> Iterator[str]:
        """A batch that runs, and is cancelled at the end."""
        self._serial += _SERIALS
        content = build_lines(self._phase.model, self._serial)
        files = {"file": ("lines.jsonl", content)}
        file_id = self._post("/files", files=files, data={"purpose": "batch"})["id"]
        body = {"input_file_id": file_id, "endpoint": ENDPOINT, "completion_window": "24h"}
        batch_id = str(self._post("/batches", json=body)["id"])
        try:
            self._wait_begun(batch_id)
            yield batch_id
        finally:
            self._post(f"/batches/{batch_id}/cancel")

    def _wait_begun(self, batch_id: str) -> None:
        until = time.monotonic() + _START_S
        while self._count(batch_id)[1] < LINES_BEGUN:
            if time.monotonic() > until:
                raise BenchFailed(f"no {LINES_BEGUN} lines were answered within {_START_S:g} s")
            time.sleep(_POLL_S)

    def _per_s(self, batch_id: str, begun: tuple[float, int]) -> float:
        """The lines answered in a second since then."""
        now, done = self._count(batch_id)
        return (done - begun[1]) / (now - begun[0])

    def _count(self, batch_id: str) -> tuple[float, int]:
        batch = self._check(self._http.get(f"/batches/{batch_id}"))
        counts = batch["request_counts"]
        if batch["errors"] or counts["failed"] or counts["completed"] == LINES:
            raise BenchFailed(f"the batch was to run on: {orjson.dumps(batch).decode()[:500]}")
        return time.monotonic(), int(counts["completed"])

    def _post(self, path: str, **content: Any) -> dict[str, Any]:
        return self._check(self._http.post(path, **content))

    @staticmethod
    def _check(answer: httpx.Response) -> dict[str, Any]:
        if answer.status_code != 200:
            reason = f"status {answer.status_code}: {answer.text[:300]}"
            raise CallFailed(answer.request.url.path, reason)
        found: dict[str, Any] = answer.json()
        return found


def build_lines(model: str, serial: int) -> bytes:
    """The file of a batch whose prompts differ at their beginning."""
    lines = []
    for number in range(serial, serial + LINES):
        text = f"Note {number}: summarise the letter of this patient in three plain sentences."
        body = {
            "model": model,
            "messages": [{"role": "user", "content": text}],
            "max_tokens": LINE_TOKENS,
            "ignore_eos": True,
        }
        line = {"custom_id": f"{number}", "method": "POST", "url": ENDPOINT, "body": body}
        lines.append(orjson.dumps(line))
    return b"\n".join(lines)


def build_grid(shares: Sequence[Share], title: str | None = None) -> Grid:
    """A row for each phase; ratios to the phase alone, of all rounds together."""
    kinds = dict.fromkeys(share.kind for share in shares)
    by_kind = {kind: [share for share in shares if share.kind == kind] for kind in kinds}
    rows = [_row(kind, by_kind) for kind in by_kind]
    header = (
        "phase",
        "calls",
        "first token p50 ms",
        "p95 ms",
        "p95 x alone",
        "chat tokens/s",
        "batch tokens/s",
        "all tokens/s",
        "x batch alone",
    )
    rounds = len(by_kind[BOTH])
    return Grid(title or f"{TITLE}; {rounds} rounds", header, rows)


def _row(kind: str, by_kind: Mapping[str, Sequence[Share]]) -> Sequence[str]:
    shares = by_kind[kind]
    waits = first_waits(shares)
    p50, p95, against = "-", "-", "-"
    if waits:
        p50, p95 = (f"{1e3 * percentile(waits, share):.0f}" for share in (0.5, 0.95))
        alone = percentile(first_waits(by_kind[CHAT]), 0.95)
        against = f"{ratio(percentile(waits, 0.95), alone):.2f}"
    total, of_batch = (median(each.tokens_per_s for each in by_kind[one]) for one in (kind, BATCH))
    return (
        kind,
        str(len(waits)),
        p50,
        p95,
        against,
        f"{median(share.chat_tokens_per_s for share in shares):.0f}",
        f"{median(share.batch_tokens_per_s for share in shares):.0f}",
        f"{total:.0f}",
        f"{ratio(total, of_batch):.2f}",
    )


def no_clocks() -> Clocks:
    """The CPU time of the phases is not compared."""
    return Clocks({}, 0.0)


def first_waits(shares: Sequence[Share]) -> list[float]:
    """The waits for first tokens, of all rounds."""
    return [wait_s for share in shares for wait_s in share.first_s]


def render_share(share: Share) -> str:
    """A line of progress."""
    p95 = f", p95 {1e3 * percentile(share.first_s, 0.95):.0f} ms" if share.first_s else ""
    return f"{share.kind}: {share.tokens_per_s:.0f} tokens/s{p95}"
