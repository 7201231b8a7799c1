"""Commands that are imported when they are run, so that `--help` lists them at once."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup


class LazyCommand(TyperCommand):
    """A name and a line of help; the function and its options are imported when it is run."""

    def __init__(self, name: str, function: str, help: str) -> None:
        super().__init__(name, help=help)
        self.function = function
        """The function's location, as `package.module:name`."""

    def import_command(self) -> Any:
        """The command itself, with its options."""
        module, _, name = self.function.partition(":")
        alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        alone.command(self.name)(getattr(import_module(module), name))
        return typer.main.get_command(alone)

    def make_context(self, *arguments: Any, **extra: Any) -> Any:
        """A context of the command itself, which then runs."""
        return self.import_command().make_context(*arguments, **extra)


class LazyGroup(TyperGroup):
    """A group of lazy commands, listed before the commands that Typer knows."""

    lazy: ClassVar[Sequence[LazyCommand]] = ()

    def __init__(self, *, commands: Any = None, **attributes: Any) -> None:
        lazy = {str(command.name): command for command in self.lazy}
        super().__init__(commands={**lazy, **(commands or {})}, **attributes)
