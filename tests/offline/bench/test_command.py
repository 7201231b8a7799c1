"""The command line of the bench, and the run around it."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from serve_app.offline.bench.bench_errors import BenchFailed, RequestsFailed
from serve_app.offline.bench.command import build_phases, overhead
from serve_app.offline.bench.generator import run_load_generator
from serve_app.offline.bench.ownership import owned
from serve_app.offline.bench.runner import Plan, measure, measure_rounds, number_phases
from serve_app.offline.bench.targets import Place, Target, build_responder
from tests.offline.bench.fakes import make_phase

RUDE = """
import http.server, sys
class Rude(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "14")
        self.end_headers()
        self.wfile.write(b"data: [DONE]\\n\\n")
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Rude).serve_forever()
"""


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--only", "peer,nginx"], "'nginx' is none of peer"),
        (["--loads", "1,many"], "'1' is no load"),
        (["--loads", "0x16"], "'0x16' is no load"),
        (["--loads", "1x4000"], "at most 3000"),
        (["--log", "/nowhere/log.md"], "cannot be written: No such file or directory"),
        (["--json", "/nowhere/out.json"], "cannot be written: No such file or directory"),
        (["--lock", "/nowhere/lock"], "cannot be written: No such file or directory"),
    ],
)
def test_wrong_arguments(arguments: list[str], complaint: str) -> None:
    """What cannot be measured is refused before anything starts."""
    app = typer.Typer()
    app.command()(overhead)
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert complaint in " ".join(result.output.replace("│", " ").split())


def test_loads() -> None:
    """Clients, tokens, and whether the answer comes in one piece."""
    phases = build_phases("1x16, 32x500,16x16w", window_s=5.0)
    assert [(phase.clients, phase.output_tokens, phase.stream) for phase in phases] == [
        (1, 16, True),
        (32, 500, True),
        (16, 16, False),
    ]


def test_no_prompt_comes_twice() -> None:
    """The phases of one target have numbers of their own, the warm-up too."""
    phases = number_phases(build_phases("1x16,2x16", window_s=5.0), 1234, "auto")
    assert [(phase.port, phase.model) for phase in phases] == [(1234, "auto")] * 2
    assert [phase.first_serial for phase in phases] == [1_000_000, 2_000_000]


def test_a_server_is_measured_from_start_to_end(tmp_path: Path) -> None:
    """The whole run, against a server that starts at once."""
    said: list[str] = []
    phase = make_phase(0, window_s=0.3)
    plan = Plan([phase], Path("model"), tmp_path / "lock", said.append, first_warmup_s=0.1)
    with run_load_generator() as generator:
        (run,) = measure(build_responder, plan, generator, "ceiling")
    assert run.target == "ceiling"
    assert run.phase == "2 clients, streamed, 2 tokens"
    assert run.requests > 0
    assert "ceiling: ready after" in said[0]


def build_rude(place: Place) -> Target:
    """A server whose answers lack their tokens."""
    return Target("rude", [sys.executable, "-c", RUDE, str(place.port)], {})


def test_rounds_go_on_without_a_target_that_fails(tmp_path: Path) -> None:
    """The others are measured in every round, in turn, and the failure is kept."""
    failures: list[BenchFailed] = []
    plan = Plan([make_phase(0)], Path("model"), None, lambda text: None, first_warmup_s=0.1)
    builders = {"one": build_responder, "rude": build_rude, "two": build_responder}
    with run_load_generator() as generator:
        runs = list(measure_rounds(builders, plan, generator, 2, failures))
    assert [(run.target, run.round) for run in runs] == [
        ("one", 1),
        ("two", 1),
        ("one", 2),
        ("two", 2),
    ]
    assert [type(failure) for failure in failures] == [RequestsFailed]


def test_a_target_may_stand_before_an_engine() -> None:
    """Both are started, the engine first, and the CPU time of both counts."""

    def build_pair(place: Place) -> Target:
        engine = build_responder(replace(place, port=place.engine_port))
        return replace(build_responder(place), name="front", engine=engine)

    plan = Plan([make_phase(0)], Path("model"), None, lambda text: None, first_warmup_s=0.1)
    with run_load_generator() as generator:
        (run,) = measure(build_pair, plan, generator, "pair")
    assert run.requests > 0


def test_servers_run_on_their_cores(tmp_path: Path) -> None:
    """What a command starts is bound too."""
    core = min(os.sched_getaffinity(0))
    code = "import os, time; print(os.sched_getaffinity(0), flush=True); time.sleep(60)"
    with owned("bound", [sys.executable, "-c", code], {}, tmp_path / "log", cores=[core]) as server:
        deadline = time.monotonic() + 20
        while not server.read_log() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert server.read_log().strip() == str({core})


def test_a_failed_request_fails_the_run() -> None:
    """A server that does not answer in full gives an error with its name, not numbers."""

    plan = Plan([make_phase(0)], Path("model"), None, lambda text: None, first_warmup_s=0.1)
    with run_load_generator() as generator, pytest.raises(RequestsFailed, match="not every token"):
        list(measure(build_rude, plan, generator, "rude"))
