"""`serve-app chat`: a conversation in the terminal with any OpenAI-compatible address."""

from __future__ import annotations

import contextlib
import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Annotated

import httpx
import typer
from rich.console import Console

from serve_app.cli.answer_view import AnswerView
from serve_app.cli.conversation import ChatAnswer, ChatFailed, Conversation, make_printable
from serve_app.core.call import AUTO

ADDRESS = "http://127.0.0.1:8000"
API = "/v1"
CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 600.0
"""The longest silence. The service has deadlines of its own and tells when one is over."""
BLOCK = '"""'
HELP = f"""\
/model NAME   ask auto, a tier or a model from now on; without NAME: say which
/why          why the last answer came from its tier
/system TEXT  instructions for every answer from now on; without TEXT: none
/new          begin a new conversation
/help         show this list
/quit         end, like Ctrl-D

{BLOCK} on a line of its own begins and ends a question of several lines. Ctrl-C stops an answer.
A question that begins with / is written with //."""

WHY = {
    "model": "the call named the model",
    "header": "the call named the tier in a header",
    "simple": "the score is below the threshold",
    "complex": "the score reaches the threshold",
    "prompt_too_long": "the prompt is too long for the faster tier, or for the stronger ones",
    "only_tier": "no other tier can answer the call",
    "policy": "the config names the tier for every call",
    "no_generation": "no text is generated, so the cheapest tier answers",
    "strong_busy": "the stronger tier was busy, and the score is close to the threshold",
    "strong_idle": "the stronger tier was idle, and the score is close to the threshold",
    "warm": "the tier has more of the conversation in its cache, and the choice was close",
    "quality": "the best answer that the budget pays for is expected there",
    "cost": "it is the cheapest tier that keeps the floor of quality",
    "weighted": "quality less money and time is expected to be highest there",
    "never_below": "the call or the config wants no weaker tier",
    "never_above": "the call or the config wants no stronger tier",
    "fallback": "the chosen tier took no call",
    "confident": "the draft of the weaker tier was confident enough",
    "escalated": "the draft of the weaker tier was not confident enough",
    "draft_failed": "the weaker tier could not write a draft",
    "draft": "the draft was not judged",
}
"""The reasons of `x-route-reason` in words."""


def chat(
    address: Annotated[
        str, typer.Argument(help="The address, as for OpenAI's clients; /v1 may be left out.")
    ] = ADDRESS,
    model: Annotated[str, typer.Option(help="auto, a tier or a model.")] = AUTO,
    system: Annotated[str | None, typer.Option(help="Instructions for every answer.")] = None,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="OPENAI_API_KEY",
            show_envvar=True,
            help="The API key; set the variable, because other users can read command lines.",
        ),
    ] = None,
    output_tokens_max: Annotated[
        int | None, typer.Option(min=1, help="The most tokens of an answer. Default: no limit.")
    ] = None,
    ca: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="The authority of the certificate (PEM)."),
    ] = None,
) -> None:
    """Talk to a model in the terminal; `echo question | serve-app chat` answers one question."""
    context = ssl.create_default_context(cafile=None if ca is None else str(ca))
    headers = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
    timeout = httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
    base_url = parse_address(address)
    with httpx.Client(base_url=base_url, headers=headers, timeout=timeout, verify=context) as http:
        conversation = Conversation(http, model, system=system, output_tokens_max=output_tokens_max)
        if sys.stdin.isatty():
            Talk(conversation, Console()).run()
        else:
            _answer_once(conversation)


def parse_address(address: str) -> str:
    """The base URL of the API at an address.

    Raises:
        typer.BadParameter: the address is not one of HTTP.
    """
    text = address if "://" in address else f"http://{address}"
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        url = httpx.URL("")
    if url.scheme not in ("http", "https") or not url.host:
        raise typer.BadParameter(f"'{address}' is not an address like {ADDRESS}")
    path = url.path.rstrip("/")
    return str(url.copy_with(path=path if path.endswith(API) else path + API))


def _answer_once(conversation: Conversation) -> None:
    """Answer what stands on the standard input; the answer alone goes to the standard output."""
    question = sys.stdin.read().strip()
    if not question:
        typer.echo("The standard input holds no question.", err=True)
        raise typer.Exit(2)
    written = 0
    safe: Callable[[str], str] = make_printable if sys.stdout.isatty() else str
    try:
        for answer in conversation.ask(question):
            sys.stdout.write(safe(answer.text[written:]))
            sys.stdout.flush()
            written = len(answer.text)
    except ChatFailed as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    finally:
        if written:
            typer.echo()
    if (note := explain_end(conversation.last)) is not None:
        typer.echo(note, err=True)


def explain_end(answer: ChatAnswer | None) -> str | None:
    """What is to be said of the end of an answer that ended early."""
    if answer is not None and answer.finish_reason == "length":
        return "(The answer was cut off at its limit of tokens.)"
    return None


class Talk:
    """Questions from the keyboard, until Ctrl-D.

    Questions are kept in memory and in no file, because they may hold secrets.
    """

    def __init__(self, conversation: Conversation, console: Console) -> None:
        self._conversation = conversation
        self._console = console
        self._commands: dict[str, Callable[[str], None]] = {
            "/model": self._use_model,
            "/why": self._explain,
            "/system": self._use_system,
            "/new": self._begin_anew,
            "/help": self._help,
        }

    def run(self) -> None:
        """Ask and answer until the input ends."""
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  # gives input() its history and its editing
        self._console.print("[dim]/help lists the commands, Ctrl-D ends.[/]")
        for text in self._read():
            if text == "/quit":
                break
            if text.startswith("/") and not text.startswith("//"):
                self._command(text)
            else:
                self._ask(text.removeprefix("/") if text.startswith("//") else text)

    def _read(self) -> Iterator[str]:
        while True:
            try:
                text = input("> ")
                if text.strip() == BLOCK:
                    text = self._read_block()
            except KeyboardInterrupt:
                self._console.print()
                continue
            except EOFError:
                self._console.print()
                return
            if text.strip():
                yield text.strip()

    @staticmethod
    def _read_block() -> str:
        return "\n".join(iter(lambda: input("  "), BLOCK))

    def _command(self, text: str) -> None:
        name, _, argument = text.partition(" ")
        run = self._commands.get(name)
        if run is None:
            self._print(f"{name} is no command; /help lists them.")
        else:
            run(argument.strip())

    def _ask(self, question: str) -> None:
        try:
            self._show(question)
        except KeyboardInterrupt:
            self._print("(stopped)")
        except ChatFailed as error:
            self._print(str(error), style="red")

    def _show(self, question: str) -> None:
        with AnswerView(self._console) as view, closing(self._conversation.ask(question)) as pieces:
            try:
                for answer in pieces:
                    view.show(answer)
            finally:
                if self._conversation.last is not None:
                    view.finish(self._conversation.last)
        if (last := self._conversation.last) is not None:
            self._print(" · ".join(filter(None, (explain_end(last), *summarise(last)))))

    def _use_model(self, name: str) -> None:
        if name:
            self._conversation.model = name
        self._print(f"Asking {self._conversation.model}.")

    def _use_system(self, text: str) -> None:
        self._conversation.system = text or None
        self._print("Set." if text else "Removed.")

    def _begin_anew(self, argument: str) -> None:
        self._conversation.forget()
        self._print("A new conversation.")

    def _help(self, argument: str) -> None:
        self._print(HELP)

    def _explain(self, argument: str) -> None:
        last = self._conversation.last
        self._print("\n".join(explain(last)) if last is not None else "Nothing was asked yet.")

    def _print(self, text: str, style: str = "dim") -> None:
        self._console.print(make_printable(text), style=style, markup=False, highlight=False)


def summarise(answer: ChatAnswer) -> Iterator[str]:
    """The tier and the speed of an answer, in a few words each."""
    tier, reason = (answer.headers.get(f"x-route-{name}") for name in ("tier", "reason"))
    if tier:
        yield f"{tier} ({reason})"
    if answer.first_token_s is not None:
        yield f"first token {answer.first_token_s * 1000:,.0f} ms"
    if answer.tokens_per_s is not None:
        yield f"{answer.tokens_per_s:,.0f} tokens/s"


def explain(answer: ChatAnswer) -> Iterator[str]:
    """The decision behind an answer, a line each."""
    said = {name: answer.headers.get(f"x-route-{name}") for name in _SAID}
    if not said["tier"]:
        yield "The address did not say why: it has no router, or it did not answer."
        return
    why = WHY.get(said["reason"] or "", said["reason"])
    yield f"{said['tier']} answered ({said['model']}): {why}."
    if said["score"]:
        yield f"score       {said['score']}"
    if said["confidence"]:
        yield f"confidence  {said['confidence']}, the draft's P(right)"
    if request_id := answer.headers.get("x-request-id"):
        yield f"request id  {request_id}"
    yield from summarise(answer)


_SAID = ("tier", "model", "reason", "score", "confidence")
