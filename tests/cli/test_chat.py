"""`serve-app chat`: its conversation, its commands and its pipe, against answers of a script."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import httpx
import orjson
import pytest
import typer
from rich.console import Console

from serve_app.cli.answer_view import AnswerView, find_last_block
from serve_app.cli.chat import WHY, Talk, explain, parse_address
from serve_app.cli.conversation import ChatAnswer, ChatFailed, Conversation, make_printable
from serve_app.core.call import Reason

ROUTED = {"x-route-tier": "fast", "x-route-model": "demo-fast", "x-route-reason": "simple"}
DONE = b"data: [DONE]\n\n"


def event(**chunk: object) -> bytes:
    return b"data: " + orjson.dumps(chunk) + b"\n\n"


def piece(text: str, **choice: object) -> bytes:
    return event(choices=[{"index": 0, "delta": {"content": text}, **choice}])


def answered(text: str = "Hello.", **choice: object) -> list[bytes]:
    usage = event(choices=[], usage={"completion_tokens": 3})
    return [piece(text), piece("", **{"finish_reason": "stop", **choice}), usage, DONE]


class Service:
    """Answers in turn, and keeps the bodies that it was sent."""

    def __init__(self, *answers: Iterable[bytes] | httpx.Response) -> None:
        self._answers = list(answers)
        self.bodies: list[dict[str, object]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.bodies.append(orjson.loads(request.content))
        answer = self._answers.pop(0)
        if isinstance(answer, httpx.Response):
            return answer
        return httpx.Response(200, headers=ROUTED, content=iter(answer))


@pytest.fixture
def converse() -> Iterator[Callable[..., Conversation]]:
    """Makes conversations with a service of this process."""
    clients = []

    def make(service: Service, **options: object) -> Conversation:
        http = httpx.Client(transport=httpx.MockTransport(service), base_url="http://service/v1")
        clients.append(http)
        return Conversation(http, "auto", **options)  # type: ignore[arg-type]

    yield make
    for client in clients:
        client.close()


def talk(
    monkeypatch: pytest.MonkeyPatch, conversation: Conversation, *lines: str | type[BaseException]
) -> str:
    """What a talk prints for what is typed."""
    typed = iter([*lines, EOFError])

    def read(prompt: str) -> str:
        line = next(typed)
        if isinstance(line, str):
            return line
        raise line

    monkeypatch.setattr("builtins.input", read)
    console = Console(file=io.StringIO(), width=100)
    Talk(conversation, console).run()
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_conversation_sends_its_turns(converse: Callable[..., Conversation]) -> None:
    """The second question brings the first one and its answer along."""
    service = Service(answered("One."), answered("Two."))
    conversation = converse(service, system="Be brief.", output_tokens_max=9)
    assert [answer.text for answer in conversation.ask("1?")][-1] == "One."
    assert [answer.text for answer in conversation.ask("2?")][-1] == "Two."
    second = service.bodies[1]
    assert second["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "1?"},
        {"role": "assistant", "content": "One."},
        {"role": "user", "content": "2?"},
    ]
    assert (second["model"], second["max_tokens"], second["stream"]) == ("auto", 9, True)


def test_a_refused_question_leaves_no_turn(converse: Callable[..., Conversation]) -> None:
    """It can be asked again, and the message is one line without control characters."""
    error = {"error": {"message": "No \x1b[31mplace\nfree."}}
    service = Service(httpx.Response(503, json=error), answered())
    conversation = converse(service)
    with pytest.raises(ChatFailed, match=r"^503: No \[31mplace free\.$"):
        list(conversation.ask("Hello?"))
    list(conversation.ask("Hello?"))
    assert service.bodies[1]["messages"] == [{"role": "user", "content": "Hello?"}]


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        ([piece("Hel")], "ended before"),
        ([piece("Hel"), DONE], "ended before"),
        ([piece("Hel"), event(error={"message": "The engine is gone."})], "The engine is gone"),
        ([b"data: {\n\n"], "not a chat completion chunk"),
        ([event(choices=[{"delta": None}])], "not a chat completion chunk"),
        ([event(choices=[{"delta": {"content": 3}}])], "not a chat completion chunk"),
    ],
)
def test_half_an_answer_is_a_failure(
    converse: Callable[..., Conversation], stream: list[bytes], message: str
) -> None:
    """However the stream breaks off, nobody takes its beginning for the whole."""
    with pytest.raises(ChatFailed, match=message):
        list(converse(Service(stream)).ask("Hello?"))


def test_a_broken_connection_is_a_failure(converse: Callable[..., Conversation]) -> None:
    """The message names the address."""

    def break_off() -> Iterator[bytes]:
        yield piece("Hel")
        raise httpx.ReadError("reset")

    conversation = converse(Service(break_off()))
    with pytest.raises(ChatFailed, match="http://service/v1/ broke off: reset"):
        list(conversation.ask("Hello?"))
    assert conversation.last is not None
    assert conversation.last.text == "Hel"


def test_events_are_read_however_the_network_cuts_them(
    converse: Callable[..., Conversation],
) -> None:
    """A character of several bytes may be cut in two."""
    whole = b"".join([piece("Grüße 你好\u2028!"), *answered("")[1:]])
    answers = converse(Service([whole[at : at + 1] for at in range(len(whole))])).ask("?")
    assert list(answers)[-1].text == "Grüße 你好\u2028!"


def test_a_talk_shows_an_answer_and_why(
    monkeypatch: pytest.MonkeyPatch, converse: Callable[..., Conversation]
) -> None:
    """The tier stands below the answer, and `/why` says more."""
    conversation = converse(Service(answered("A **bold** answer.")))
    shown = talk(monkeypatch, conversation, "Hello?", "/why")
    assert "A bold answer." in shown
    assert "fast (simple) · first token" in shown
    assert "fast answered (demo-fast): the score is below the threshold." in shown


def test_commands_change_the_next_question(
    monkeypatch: pytest.MonkeyPatch, converse: Callable[..., Conversation]
) -> None:
    """Model, system and history; an unknown command says so; `//` escapes."""
    service = Service(answered(), answered(), answered())
    lines = ["1", "/model strong", "/system Rhyme.", "2", "/new", "//3", "/nonsense", "/quit", "4"]
    shown = talk(monkeypatch, converse(service), *lines)
    assert "/nonsense is no command" in shown
    assert [body["model"] for body in service.bodies] == ["auto", "strong", "strong"]
    contents = [[turn["content"] for turn in body["messages"]] for body in service.bodies]  # type: ignore[attr-defined]
    assert contents == [["1"], ["Rhyme.", "1", "Hello.", "2"], ["Rhyme.", "/3"]]


def test_a_question_may_have_lines(
    monkeypatch: pytest.MonkeyPatch, converse: Callable[..., Conversation]
) -> None:
    """Between two lines of quotes."""
    service = Service(answered())
    talk(monkeypatch, converse(service), '"""', "def f():", "    pass", '"""')
    assert service.bodies[0]["messages"] == [{"role": "user", "content": "def f():\n    pass"}]


def test_ctrl_c_stops_an_answer_and_not_the_talk(
    monkeypatch: pytest.MonkeyPatch, converse: Callable[..., Conversation]
) -> None:
    """The text so far is a turn, and the next question can be asked."""

    def interrupt() -> Iterator[bytes]:
        yield piece("Half ")
        raise KeyboardInterrupt

    service = Service(interrupt(), answered())
    shown = talk(monkeypatch, converse(service), KeyboardInterrupt, "1", "2")
    assert "Half" in shown
    assert "(stopped)" in shown
    assert len(service.bodies[1]["messages"]) == 3  # type: ignore[arg-type]


def test_a_failure_does_not_end_the_talk(
    monkeypatch: pytest.MonkeyPatch, converse: Callable[..., Conversation]
) -> None:
    """Its message is shown, whatever markup it has."""
    refused = httpx.Response(404, json={"error": {"message": "No model [bold]x[/]."}})
    shown = talk(monkeypatch, converse(Service(refused, answered())), "1", "2")
    assert "404: No model [bold]x[/]." in shown
    assert "Hello." in shown


def test_nothing_that_a_terminal_obeys_is_shown(
    monkeypatch: pytest.MonkeyPatch, converse: Callable[..., Conversation]
) -> None:
    """A model's escape sequences are text; tabs, lines and joined emoji stay."""
    shown = talk(monkeypatch, converse(Service(answered("\x1b]0;owned\x07 \x9b31m ok"))), "1")
    assert not {"\x1b", "\x07", "\x9b"} & set(shown)
    assert make_printable("a\tb\nc👩‍🚀\u202edcba") == "a\tb\nc👩‍🚀dcba"


def test_thoughts_are_counted_until_the_answer_begins() -> None:
    """A model that thinks for a minute is not silent."""
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with AnswerView(console) as view:
        view.show(ChatAnswer(thoughts="Hm, let me see."))
    assert isinstance(console.file, io.StringIO)
    assert "thinking: 15 characters" in console.file.getvalue()


@pytest.mark.parametrize(
    ("text", "last"),
    [
        ("", ""),
        ("one", "one"),
        ("one\n", "one\n"),
        ("one\n\ntwo", "two"),
        ("one\n\n", ""),
        ("```\na\n\nb\n", "```\na\n\nb\n"),
        ("```\na\n\nb\n```\n\nafter", "after"),
        ("~~~\n```\n\n~~~\n\nx", "x"),
    ],
)
def test_only_the_last_block_may_still_change(text: str, last: str) -> None:
    """Empty lines end blocks, but not inside of code."""
    assert text[find_last_block(text) :] == last


def test_every_reason_has_words() -> None:
    """`/why` knows each reason of the router."""
    assert WHY.keys() == {reason.value for reason in Reason}


def test_an_address_without_a_router_is_said() -> None:
    """Other servers send no headers about routing."""
    assert "has no router" in next(explain(ChatAnswer()))


@pytest.mark.parametrize(
    ("address", "base_url"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/v1"),
        ("https://llm.example/v1/", "https://llm.example/v1"),
        ("llm.example:8000", "http://llm.example:8000/v1"),
        ("http://host/team/v1", "http://host/team/v1"),
    ],
)
def test_an_address_may_be_short(address: str, base_url: str) -> None:
    """The scheme and the path of the API may be left out."""
    assert parse_address(address) == base_url


@pytest.mark.parametrize("address", ["ftp://host", "http://", "http://[::1", ""])
def test_a_wrong_address_is_said(address: str) -> None:
    """No traceback, and an example."""
    with pytest.raises(typer.BadParameter, match="is not an address like"):
        parse_address(address)


def test_a_pipe_without_a_service_fails_in_one_line(tmp_path: Path) -> None:
    """Exit code 1, nothing on the standard output, and no traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "serve_app.cli.main", "chat", "http://127.0.0.1:9"],
        input="Hello?",
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert "http://127.0.0.1:9/v1/" in done.stderr
