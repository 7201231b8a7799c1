"""An answer in a terminal while it grows: its finished blocks stay, only the last one moves."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markdown import Markdown
from rich.text import Text

from serve_app.cli.conversation import ChatAnswer, make_printable

FENCES = ("```", "~~~")


class AnswerView:
    """Shows one answer as Markdown; a context manager, because it hides the cursor."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=10, transient=True)
        self._shown = 0
        """The characters that are printed for good."""

    def __enter__(self) -> AnswerView:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.stop()

    def show(self, answer: ChatAnswer) -> None:
        """Show the answer as far as it has come."""
        end = find_last_block(answer.text, self._shown)
        self._print(answer.text[self._shown : end])
        self._shown = end
        tail: list[RenderableType] = [_render(answer.text[end:])]
        if answer.thoughts and not answer.text:
            tail.append(Text(f"thinking: {len(answer.thoughts):,} characters", style="dim"))
        self._live.update(Group(*tail))

    def finish(self, answer: ChatAnswer) -> None:
        """Print what is left for good."""
        self._live.update(Text())
        self._print(answer.text[self._shown :])
        self._shown = len(answer.text)

    def _print(self, text: str) -> None:
        if text.strip():
            self._console.print(_render(text))


def _render(text: str) -> Markdown:
    return Markdown(make_printable(text))


def find_last_block(text: str, start: int = 0) -> int:
    """Where the last block of the Markdown begins that may still change.

    A block ends at an empty line outside of a fence of code. `start` is where a block begins.
    """
    end = position = start
    fence = ""
    for line in text[start:].splitlines(keepends=True):
        position += len(line)
        mark = line.lstrip()[:3]
        if fence:
            fence = "" if mark == fence else fence
        elif mark in FENCES:
            fence = mark
        if not fence and not line.strip() and line.endswith("\n"):
            end = position
    return end
