"""The command line of the bench, and the run around it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from serve_app.offline.bench.bench_errors import RequestsFailed
from serve_app.offline.bench.command import build_phases, overhead
from serve_app.offline.bench.generator import run_load_generator
from serve_app.offline.bench.runner import Plan, measure
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
        (["--clients", "1,many"], "'1,many' is not a list of numbers"),
        (["--clients", "0"], "at least 1"),
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
    """Streamed and whole answers for every count, and long streams for the largest."""
    phases = build_phases([1, 32], window_s=5.0)
    assert [(phase.clients, phase.stream, phase.output_tokens) for phase in phases] == [
        (1, True, 16),
        (32, True, 16),
        (1, False, 16),
        (32, False, 16),
        (32, True, 64),
    ]
    assert build_phases([1], window_s=5.0, long_tokens=500)[-1].output_tokens == 500


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


def test_a_failed_request_fails_the_run() -> None:
    """A server that does not answer in full gives an error with its name, not numbers."""

    def build_rude(place: Place) -> Target:
        return Target("rude", [sys.executable, "-c", RUDE, str(place.port)], {})

    plan = Plan([make_phase(0)], Path("model"), None, lambda text: None, first_warmup_s=0.1)
    with run_load_generator() as generator, pytest.raises(RequestsFailed, match="not every token"):
        list(measure(build_rude, plan, generator, "rude"))
