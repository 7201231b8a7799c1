"""The virtual environment in .venv, and the only commands that change it."""

import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import pins

Command = Sequence[str | Path]


class InstallFailed(Exception):
    """What went wrong and how to mend it, in one line."""


class Environment(Protocol):
    """What an install needs of a virtual environment."""

    def version(self) -> str | None: ...
    def packages(self) -> pins.Pins: ...
    def create(self) -> None: ...
    def install(self, locks: Sequence[str]) -> None: ...


class Venv:
    """A directory with a Python and a pip of its own."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._path = root / ".venv"
        self._python = self._path / "bin" / "python"

    def version(self) -> str | None:
        """The version of its Python, or None where that does not run: its base may be gone."""
        show = "import pip, sys; print('%d.%d' % sys.version_info[:2])"
        command: Command = [self._python, "-I", "-c", show]
        try:
            result = subprocess.run(command, check=False, capture_output=True, text=True)
        except OSError:
            return None
        return None if result.returncode else result.stdout.strip()

    def packages(self) -> pins.Pins:
        """What is installed, read from metadata alone: nothing is imported."""
        paths = [str(path) for path in self._path.glob("lib/python*/site-packages")]
        return {pins.canonical(dist.name): dist.version for dist in distributions(path=paths)}

    def create(self) -> None:
        """Makes it anew, empty, for the Python that runs this."""
        for module in ("venv", "ensurepip"):
            if find_spec(module) is None:
                package = "python{}.{}-venv".format(*sys.version_info)
                mend = f"install it (Debian, Ubuntu: apt-get install {package})"
                raise InstallFailed(f"{sys.executable} has no module {module}: {mend}")
        command: Command = [sys.executable, "-m", "venv", "--clear", self._path]
        _run(command, f"{sys.executable} -m venv failed", stderr=subprocess.DEVNULL)

    def install(self, locks: Sequence[str]) -> None:
        self._pip_install(pins.PIP)
        self._install_torch(f"torch=={pins.read_lock(self._root, 'cpu')['torch']}")
        for lock in locks:
            print(f"  requirements/{lock}.txt", flush=True)
            # Wheels only: no compiler is asked of the machine.
            self._pip_install("--only-binary=:all:", "-r", pins.lock_file(self._root, lock))
        self._pip_install("--no-build-isolation", "-e", self._root)
        self._remove_excluded()
        self._compile()

    def _install_torch(self, torch: str) -> None:
        print(f"  {torch}", flush=True)
        ordinary = self._pip("install", "--no-deps", "--no-compile", torch)
        if not _succeeds(ordinary, stderr=subprocess.DEVNULL):
            print(f"  {torch} from {pins.TORCH_INDEX}", flush=True)
            self._pip_install("--index-url", pins.TORCH_INDEX, torch)

    def _remove_excluded(self) -> None:
        if present := sorted(pins.EXCLUDED & self.packages().keys()):
            _run(self._pip("uninstall", "-y", *present), f"could not remove {', '.join(present)}")

    def _compile(self) -> None:
        # Each process of a replica imports thousands of modules. Here all cores compile, not one
        # as in pip, and PYTHONDONTWRITEBYTECODE, usual in containers, does not forbid it.
        print("  compiling", flush=True)
        command: Command = [self._python, "-m", "compileall", "-qq", "-j", "0", self._path / "lib"]
        # Errors are expected: some packages ship templates and code for other Pythons as .py.
        _succeeds(command, stderr=subprocess.DEVNULL)

    def _pip_install(self, *arguments: str | Path) -> None:
        mend = "see pip's message above, check network and disk, and run again"
        command = self._pip("install", "--no-deps", "--no-compile", *arguments)
        _run(command, f"could not install {arguments[-1]}: {mend}")

    def _pip(self, command: str, *arguments: str | Path) -> Command:
        options = ["-I", "-m", "pip", "-qq", "--disable-pip-version-check", "--no-input"]
        return [self._python, *options, command, *arguments]


def _run(command: Command, failure: str, stderr: int | None = None) -> None:
    if not _succeeds(command, stderr):
        raise InstallFailed(failure)


def _succeeds(command: Command, stderr: int | None = None) -> bool:
    # close_fds: the child inherits the lock, so an orphaned pip still keeps other installs away.
    return subprocess.run(command, check=False, close_fds=False, stderr=stderr).returncode == 0
