"""`serve-app evaluate` as a user meets it, against a server on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import orjson
import pytest
from typer.testing import CliRunner, Result

from serve_app.cli.main import app
from serve_app.offline.bench.runner import find_free_port
from tests.offline.evaluate.fakes import render_stream

MODELS = {"fast", "strong", "auto"}


class FakeService(ThreadingHTTPServer):
    """Answers everything right as strong, and only short questions as fast: `7` is right here."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), FakeHandler)
        self.asked: list[str] = []
        self.keys: set[str | None] = set()
        self.pause_s = 0.0

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class FakeHandler(BaseHTTPRequestHandler):
    """One exchange."""

    server: FakeService

    def do_POST(self) -> None:
        body = orjson.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked.append(body["model"])
        self.server.keys.add(self.headers["authorization"])
        time.sleep(self.server.pause_s)
        if body["model"] not in MODELS:
            self._send(404, b'{"error": {"message": "The model does not exist."}}')
            return
        hard = len(body["messages"][0]["content"]) > 20
        tier = {"auto": "strong" if hard else "fast"}.get(body["model"], body["model"])
        text = "7" if tier == "strong" or not hard else "8"
        self._send(200, b"".join(render_stream(text)), tier)

    def _send(self, status: int, body: bytes, tier: str = "") -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.send_header("x-route-tier", tier)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Not into the tests' output."""


@pytest.fixture
def service() -> Iterator[FakeService]:
    """A running service."""
    with FakeService() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """Ten questions, half of them long."""
    lines = [
        {
            "id": str(number),
            "prompt": f"{7 - number} + {number}?" + " Show every step." * (number % 2),
            "check": {"type": "numeric", "value": 7},
            "tags": {"level": "hard" if number % 2 else "easy"},
        }
        for number in range(10)
    ]
    path = tmp_path / "sums.jsonl"
    path.write_bytes(b"\n".join(map(orjson.dumps, lines)))
    return path


def evaluate(*arguments: object) -> Result:
    """The command in this process."""
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


def read_answers(out: Path) -> list[tuple[str, str]]:
    """Who answered what, sorted."""
    lines = (out / "answers.jsonl").read_bytes().splitlines()
    return sorted((line["model"], line["id"]) for line in map(orjson.loads, lines))


def test_a_whole_evaluation(service: FakeService, questions: Path, tmp_path: Path) -> None:
    """Tables on the terminal; answers, summary and picture in the directory."""
    out = tmp_path / "out"
    result = evaluate(questions, "--base-url", f"{service.base_url}/", "--out", out)
    assert result.exit_code == 0
    assert result.stdout.startswith("sums: 10 questions")
    assert "100.0 (72.2 to 100.0), n=10" in result.stdout
    assert "Right %, by level" in result.stdout
    assert str(out) in result.stderr
    assert len(read_answers(out)) == 30
    assert orjson.loads((out / "summary.json").read_bytes())["models"][2]["strong_ratio"] == 0.5
    assert (out / "quality-over-cost.png").read_bytes().startswith(b"\x89PNG")
    assert service.keys == {None}


def test_json_is_all_of_stdout(
    service: FakeService, questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program may read it; the key comes from the environment."""
    monkeypatch.setenv("THE_KEY", "sesame")
    options = ["--models", "auto, fast", "--limit", 4, "--api-key-env", "THE_KEY", "--json"]
    out = tmp_path / "out"
    result = evaluate(questions, "--base-url", service.base_url, "--out", out, *options)
    summary = orjson.loads(result.stdout)
    assert [model["model"] for model in summary["models"]] == ["auto", "fast"]
    assert summary["questions"] == 4
    assert result.stdout_bytes == (out / "summary.json").read_bytes()
    assert service.keys == {"Bearer sesame"}


def test_only_missing_calls_are_made(service: FakeService, questions: Path, tmp_path: Path) -> None:
    """A second run asks nothing; one more model or question asks only for that."""
    common = [questions, "--base-url", service.base_url, "--out", tmp_path / "out"]
    for options, calls in [
        (["--models", "fast", "--limit", 6], 6),
        (["--models", "fast", "--limit", 6], 0),
        (["--models", "fast,auto", "--limit", 6], 6),
        (["--models", "fast,auto"], 8),
    ]:
        service.asked.clear()
        assert evaluate(*common, *options).exit_code == 0
        assert len(service.asked) == calls


def test_other_settings_need_another_directory(
    service: FakeService, questions: Path, tmp_path: Path
) -> None:
    """One line says what differs; nobody is asked."""
    common = [questions, "--base-url", service.base_url, "--out", tmp_path / "out"]
    assert evaluate(*common).exit_code == 0
    service.asked.clear()
    result = evaluate(*common, "--max-tokens", 16)
    assert (result.exit_code, service.asked) == (1, [])
    assert "max_tokens is 512 there and 16 here" in result.stderr
    questions.write_bytes(questions.read_bytes() + b"\n")
    assert "dataset_sha256 is" in evaluate(*common).stderr


def test_without_out_each_run_has_its_own(
    service: FakeService, questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name tells the data set and the time."""
    monkeypatch.chdir(tmp_path)
    result = evaluate(questions, "--base-url", service.base_url, "--models", "fast")
    [directory] = (tmp_path / "evaluation").iterdir()
    assert directory.name.startswith("sums-2")
    assert f"--out evaluation/{directory.name} goes on" in result.stderr


def test_a_model_that_is_not_there(service: FakeService, questions: Path, tmp_path: Path) -> None:
    """The endpoint's sentence, and no second question."""
    options = ["--models", "medium", "--concurrency", 1]
    result = evaluate(questions, "--base-url", service.base_url, "--out", tmp_path / "o", *options)
    assert (result.exit_code, result.stdout, service.asked) == (1, "", ["medium"])
    assert "the model 'medium': status 404: The model does not exist." in result.stderr


def test_nobody_listens(questions: Path, tmp_path: Path) -> None:
    """One line, no traceback, within seconds."""
    url = f"http://127.0.0.1:{find_free_port()}/v1"
    result = evaluate(questions, "--base-url", url, "--out", tmp_path / "out")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.splitlines()[-1] == (
        f"No server answers at {url}. Is the service running there?"
    )


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nowhere.jsonl"], 1, "nowhere.jsonl: No such file"),
        (["x.jsonl", "--base-url", "localhost:8000"], 2, "is not an http address"),
        (["x.jsonl", "--base-url", "http://"], 2, "is not an http address"),
        (["x.jsonl", "--api-key-env", "NO_SUCH_KEY"], 2, "the environment has no NO_SUCH_KEY"),
        (["x.jsonl", "--models", "fast,,auto"], 2, "is not a list of models"),
        (["x.jsonl", "--concurrency", "0"], 2, "--concurrency"),
        (["x.jsonl", "--out", __file__], 2, "is a file"),
    ],
)
def test_wrong_arguments(arguments: list[str], code: int, words: str) -> None:
    """They are refused before anybody is asked."""
    result = evaluate(*arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    # typer frames the message and breaks its lines where the terminal ends.
    message = " ".join(result.stderr.replace("│", " ").split())
    assert words in message
    assert "Traceback" not in message


def test_ctrl_c_leaves_whole_lines(service: FakeService, questions: Path, tmp_path: Path) -> None:
    """What was answered is kept, and the same command makes the other calls."""
    service.pause_s = 0.2
    out = tmp_path / "out"
    common = [questions, "--base-url", service.base_url, "--out", out, "--concurrency", 2]
    words = [sys.executable, "-m", "serve_app.cli.main", "evaluate", *map(str, common)]
    with subprocess.Popen(
        words,
        stderr=subprocess.PIPE,
        env=os.environ,
        # A shell starts what runs in its background with SIGINT ignored, and that is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        while len(service.asked) < 5:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"Interrupted." in stderr
    assert b"Traceback" not in stderr
    answered = read_answers(out)
    assert 0 < len(answered) < 30
    service.pause_s = 0.0
    service.asked.clear()
    assert evaluate(*common).exit_code == 0
    assert len(service.asked) == 30 - len(answered)
    assert len(set(read_answers(out))) == len(read_answers(out)) == 30


def test_what_cannot_be_written_is_refused_before_anyone_is_asked(
    service: FakeService, questions: Path, tmp_path: Path
) -> None:
    """The directory itself, and a file that comes at the end."""
    (tmp_path / "file").touch()
    (tmp_path / "out" / "summary.json").mkdir(parents=True)
    for out, words in (
        ("file/out", "Not a directory"),
        ("out", "summary.json cannot be written: Is a"),
    ):
        result = evaluate(questions, "--base-url", service.base_url, "--out", tmp_path / out)
        assert (result.exit_code, service.asked) == (1, [])
        assert words in result.stderr
