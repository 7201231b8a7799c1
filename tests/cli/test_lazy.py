"""A command is imported when it is run, and imports no engine to look at a config."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from serve_app.cli.lazy import LazyCommand
from serve_app.cli.main import (
    EXTRA_OF,
    AuditCommands,
    Benchmarks,
    Canary,
    Certificates,
    Commands,
    Distill,
    Keys,
    main,
)
from serve_app.config.tls import CERTIFICATE

ROOT = Path(__file__).parents[2]
SHOW = "import sys, atexit; atexit.register(lambda: print(*sorted(sys.modules), file=sys.stderr))"
RUN = "from serve_app.cli.main import main; main()"


def imported(*arguments: str) -> tuple[str, set[str]]:
    """What a command prints, and the modules that its process then has; nothing else on stderr."""
    command = [sys.executable, "-c", f"{SHOW}\n{RUN}", *arguments]
    environment = {**os.environ, CERTIFICATE: "/etc/serve-app/tls.pem"}  # no warning of its lack
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    [modules] = done.stderr.splitlines()
    return done.stdout, set(modules.split())


@pytest.mark.parametrize(
    "command",
    [
        *Commands.lazy,
        *Benchmarks.lazy,
        *Certificates.lazy,
        *AuditCommands.lazy,
        *Keys.lazy,
        *Canary.lazy,
        *Distill.lazy,
    ],
    ids=lambda command: command.name,
)
def test_the_list_says_what_the_command_says(command: LazyCommand) -> None:
    """The help of the list is the first paragraph of the function's own."""
    module, _, name = command.function.partition(":")
    words = inspect.getdoc(getattr(import_module(module), name)) or ""
    assert " ".join(words.partition("\n\n")[0].split()) == command.help


def test_the_list_of_commands_imports_none_of_them() -> None:
    """Every command is listed, and none of their dependencies is there."""
    text, modules = imported("--help")
    assert [command.name for command in Commands.lazy if str(command.name) not in text] == []
    assert modules.isdisjoint({"vllm", "ray", "torch", "numpy", "httpx", "pydantic"})


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "configs/prod.yaml"),
        ("plan", "configs/prod.yaml"),
        ("doctor", "configs/local.yaml"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_look_at_a_config_imports_no_engine(arguments: tuple[str, ...]) -> None:
    """Neither vLLM nor Ray nor PyTorch, which take ten seconds and write to stderr."""
    text, modules = imported(*arguments)
    assert text
    assert modules.isdisjoint({"vllm", "ray", "torch", "sklearn", "pandas"})


def test_the_options_are_those_of_the_function() -> None:
    """A command's own help comes from its function."""
    text, _ = imported("bench", "scaling", "--help")
    assert "--tune" in text


@pytest.mark.parametrize("module", EXTRA_OF)
def test_a_missing_extra_is_one_line_with_the_command(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that serves has no package that only learning and measuring need."""
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SystemExit) as exit_:
        main(lambda: import_module(module))
    expected = f"pip install 'serve-app[{EXTRA_OF[module]}]' brings it."
    assert exit_.value.code == f"{module} is not installed here; {expected}"


def test_any_other_missing_module_is_a_fault() -> None:
    """It shows as one, with its traceback."""
    with pytest.raises(ModuleNotFoundError):
        main(lambda: import_module("no_such_module"))


def test_every_extra_that_is_named_exists() -> None:
    """The command that the line names can be run."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(EXTRA_OF.values()) <= project["optional-dependencies"].keys()
