"""`serve-app distill` as a user meets it."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import orjson
import pytest
from typer.testing import CliRunner, Result

from serve_app.cli.main import app
from tests.offline.distill.logs import call, label, write_log
from tests.offline.evaluate.fakes import render_stream


def run(*arguments: object) -> Result:
    """The command in this process."""
    return CliRunner().invoke(app, ["distill", *map(str, arguments)])


class FakeStrong(ThreadingHTTPServer):
    """Knows `a?`, guesses at `b?`, and never comes to an end with `c?`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), FakeStrongHandler)
        self.consents: set[str | None] = set()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class FakeStrongHandler(BaseHTTPRequestHandler):
    """One exchange."""

    server: FakeStrong

    def do_POST(self) -> None:
        body = orjson.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.consents.add(self.headers["x-feedback-consent"])
        question, cold = body["messages"][-1]["content"], body["temperature"] == 0
        guess = "3" if cold else "4"
        text = {"a?": "1 + 1 = 2", "b?": guess}.get(question, "and so on")
        spent = body["max_tokens"] if question == "c?" else 5
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"".join(render_stream(text, usage={"completion_tokens": spent})))

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""


@pytest.fixture
def strong() -> Iterator[FakeStrong]:
    with FakeStrong() as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def answers(directory: Path) -> dict[str, str]:
    lines = (directory / "train.jsonl").read_bytes().splitlines()
    messages = [orjson.loads(line)["messages"] for line in lines]
    return {each[-2]["content"]: each[-1]["content"] for each in messages}


def test_a_log_becomes_lessons_and_a_card(tmp_path: Path) -> None:
    """Counts add up, the sums are those of the files, and only their owner can read them."""
    log = write_log(
        tmp_path / "log",
        *(part for name in "abc" for part in (call(name), label(name))),
        call("private", consented=False),
    )
    held = tmp_path / "held.jsonl"
    held.write_text('{"prompt": "c?", "check": {"type": "exact", "value": "1"}}\n')
    out = tmp_path / "set"
    options = ("--held-out", held, "--validation-ratio", 0)
    result = run("data", log, "--out", out, *options, "--json")
    assert result.exit_code == 0, result.stderr
    assert answers(out) == {"a?": "theirs", "b?": "theirs"}
    card = orjson.loads(result.stdout)
    assert card == orjson.loads((out / "card.json").read_bytes())
    assert card["fates"] == {"no_consent": 1, "held_out": 1, "kept": 2}
    assert card["calls"] == sum(card["fates"].values()) == 4
    assert [len(file["sha256"]) for file in card["files"]] == [64]
    assert card["held_out"].keys() == {"held.jsonl"}
    assert (out / "train.jsonl").stat().st_mode & 0o077 == 0
    text = (out / "CARD.md").read_text()
    assert "| the client did not consent itself | 1 | 3 |" in text
    table = run("data", log, "--out", out, *options)
    assert "lessons to learn from" in table.stdout


def test_missing_answers_are_asked_twice(tmp_path: Path, strong: FakeStrong) -> None:
    """Two equal results are taught; a guess and an endless answer are counted, a private call is
    not asked; the asked calls themselves refuse to be kept."""
    log = write_log(
        tmp_path / "log",
        *(call(name, answer=None) for name in "abc"),
        call("private", answer=None, consented=False),
    )
    out = tmp_path / "set"
    result = run(
        "data", log, "--out", out, "--ask", strong.base_url, "--validation-ratio", 0, "--json"
    )
    assert result.exit_code == 0, result.stderr
    assert answers(out) == {"a?": "1 + 1 = 2"}
    card = orjson.loads(result.stdout)
    assert card["fates"] == {"no_consent": 1, "disagrees": 1, "cut_off": 1, "kept": 1}
    assert card["sources"] == {"asked for the lesson": 1}
    assert strong.consents == {"no"}


def test_a_log_with_nothing_to_teach(tmp_path: Path) -> None:
    """The error counts the reasons and names what to change; no file is written."""
    log = write_log(tmp_path / "log", call("a", consented=False), call("b", answer=None))
    result = run("data", log, "--out", tmp_path / "set")
    assert result.exit_code == 1
    assert "Of 2 calls none may be taught" in result.stderr
    for words in ("did not consent itself: 1", "not in the log: 1", "store_answers", "--ask"):
        assert words in result.stderr
    assert not (tmp_path / "set" / "train.jsonl").exists()


def test_an_endpoint_that_is_not_there(tmp_path: Path) -> None:
    """The error names the address."""
    log = write_log(tmp_path / "log", call("a", answer=None))
    result = run("data", log, "--out", tmp_path / "set", "--ask", "http://127.0.0.1:9/v1")
    assert result.exit_code == 1
    assert "No server answers at http://127.0.0.1:9/v1" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("data", "/nowhere", "--out", "{}/set"), "/nowhere: No such file"),
        (("data", "/nowhere", "--out", "{}/set", "--ask", "ftp://a"), "'ftp://a' is not an http"),
        (("data", "/nowhere", "--out", "{}/set", "--redact", "emial"), "'emial' is none of the"),
        (("data", "/nowhere", "--out", "/proc/set"), "/proc/set cannot be written"),
        (("train", "{}", "--base", "demo:weak", "--out", "{}/a"), "--base demo:weak"),
        (("train", "{}", "--base", "demo:fast", "--out", "{}/a"), "train.jsonl: No such file"),
        (("train", "{}", "--base", "demo:fast", "--out", "{}/a", "--rank", "7"), "7 is none of"),
        (("compare", "{}", "--dataset", "demo"), "it has no answers.jsonl"),
    ],
)
def test_bad_input(tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    """One line that names what is wrong, and no traceback."""
    result = run(*(argument.format(tmp_path) for argument in arguments))
    assert result.exit_code in (1, 2)
    assert says in " ".join(result.stderr.replace("│", " ").split())


def test_an_adapter_does_not_replace_other_files(tmp_path: Path) -> None:
    """A directory is replaced only if an earlier training wrote it."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    result = run("train", tmp_path, "--base", "demo:fast", "--out", tmp_path / "mine")
    assert result.exit_code == 1
    assert "other files than an earlier result" in result.stderr
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_a_comparison(tmp_path: Path) -> None:
    """The distilled model is right where only the strong one was, so fewer calls need that one."""
    questions, lines = [], []
    for number in range(20):
        hard = number >= 10
        text = f"Prove step by step that {number} is even or odd." if hard else f"Hi {number}"
        tags = {"level": "hard" if hard else "easy"}
        check = {"type": "exact", "value": "1"}
        questions.append({"id": str(number), "prompt": text, "check": check, "tags": tags})
        right = {"fast": not hard, "distilled": number < 15, "strong": True}
        lines += [{"id": str(number), "model": name, "right": ok} for name, ok in right.items()]
    (tmp_path / "set.jsonl").write_bytes(b"\n".join(map(orjson.dumps, questions)))
    (tmp_path / "answers.jsonl").write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
    arguments = ("compare", tmp_path, "--dataset", tmp_path / "set.jsonl")
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    found = orjson.loads(result.stdout)
    groups = {one["group"]: one for one in found["accuracies"]}
    assert groups["level: hard"]["before"] == 0
    assert groups["level: hard"]["after"] == 5
    assert groups["all"]["difference"]["mean"] == 0.25
    shares = {one["aim"]: one for one in found["shares"]}
    ideal = shares["calls that only the strong model gets right"]
    assert (ideal["before"], ideal["after"]) == (0.5, 0.25)
    high = shares["90% of the strong model's"]
    assert high["after"] <= high["before"]
    assert "Strong calls that reach a quality" in run(*arguments).stdout
    missing = run(*arguments, "--after", "other")
    assert missing.exit_code == 1
    assert "serve-app evaluate" in missing.stderr
