"""The progress of a start: a table that moves in a terminal, a line a step elsewhere."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from serve_app.cli.start_progress import Part, StartProgress
from serve_app.core.start_steps import StartStep

WHY_CHARACTERS_MAX = 160


class StartView(Protocol):
    """Shows a start to a person; a context manager."""

    def __enter__(self) -> StartView: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def show(self, progress: StartProgress) -> None:
        """Show how far the start has come."""
        ...


class TableView:
    """A table that is redrawn in place."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, refresh_per_second=8)
        self._spinner = Spinner("dots")

    def __enter__(self) -> TableView:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.stop()

    def show(self, progress: StartProgress) -> None:
        """Redraw the table."""
        table = Table.grid(padding=(0, 2))
        for part in progress.parts.values():
            ready = part.step is StartStep.READY
            mark = Text("✓", style="green") if ready else self._spinner if part.step else Text(" ")
            style = "" if ready or part.step is None else "bold"
            seconds = part.ready_s if part.ready_s is not None else progress.elapsed_s
            shown = f"{seconds:.0f} s" if part.step else ""
            table.add_row(
                mark,
                part.name,
                Text(describe_step(part), style=style),
                Text(shown, justify="right"),
                Text(render_last(part), style="dim"),
            )
        self._live.update(table)


class LineView:
    """A line for each step of each part, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown: dict[str, str] = {}

    def __enter__(self) -> LineView:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        return

    def show(self, progress: StartProgress) -> None:
        """Print what has changed."""
        for part in progress.parts.values():
            step = describe_step(part)
            if part.step is None or self._shown.get(part.name) == step:
                continue
            self._shown[part.name] = step
            last = render_last(part) if part.step is StartStep.READY else ""
            line = f"{progress.elapsed_s:4.0f} s  {part.name}: {step} {last}".rstrip()
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def build_view(console: Console, *, plain: bool = False) -> StartView:
    """The view that suits the console."""
    return TableView(console) if console.is_terminal and not plain else LineView(console)


def describe_step(part: Part) -> str:
    """The step, and why the part waits."""
    if part.step is None:
        return ""
    why = " ".join((part.why or "").split())
    return f"{part.step.value}: {why[:WHY_CHARACTERS_MAX]}" if why else part.step.value


def render_last(part: Part) -> str:
    """What the last start took, for comparison."""
    return "" if part.last_s is None else f"(last start: {part.last_s:.0f} s)"
