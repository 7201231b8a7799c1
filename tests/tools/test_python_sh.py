import subprocess
import sys
from pathlib import Path

import pins
import pytest
from packaging.specifiers import SpecifierSet

SCRIPT = pins.ROOT / "tools" / "python.sh"


def run(path: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Asks for the Python's version, with only the commands under `path` and the system's."""
    command = ["/bin/sh", SCRIPT, "-c", "import sys; print(sys.version_info[:2])"]
    return subprocess.run(
        command, env={"PATH": str(path), **env}, capture_output=True, text=True, check=False
    )


@pytest.fixture
def commands(tmp_path: Path) -> Path:
    """A PATH with an unsuitable python3 on it and nothing else but uname."""
    fake(tmp_path, "python3", "exit 0")
    fake(tmp_path, "uname", '[ "$1" = -s ] && echo Linux || echo x86_64')
    return tmp_path


def fake(path: Path, name: str, script: str) -> None:
    (path / name).write_text(f"#!/bin/sh\n{script}\n")
    (path / name).chmod(0o755)


def test_a_versioned_python_stands_in_for_an_old_python3(commands: Path) -> None:
    """The first command whose version suits is taken, whatever python3 is."""
    (commands / "python3.13").symlink_to(sys.executable)
    assert run(commands).stdout.strip() == str(sys.version_info[:2])


def test_python_names_the_interpreter(commands: Path) -> None:
    """PYTHON goes before whatever the PATH holds."""
    assert run(commands, PYTHON=sys.executable).returncode == 0


@pytest.mark.parametrize("env", [{}, {"PYTHON": "python3"}, {"PYTHON": "/nowhere"}])
def test_no_suitable_python_is_one_line(commands: Path, env: dict[str, str]) -> None:
    """Too old, absent or mistyped: one line that says what to install, and no traceback."""
    result = run(commands, **env)
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert "Python 3.11, 3.12 or 3.13" in result.stderr


def test_another_system_is_one_line(commands: Path) -> None:
    """The pinned wheels are for one platform, so any other is told at once."""
    fake(commands, "uname", "echo Darwin")
    result = run(commands)
    assert (result.returncode, len(result.stderr.splitlines())) == (1, 1)


def test_it_takes_the_versions_that_the_project_declares() -> None:
    """The script cannot read TOML, so its bounds are written twice."""
    declared = SpecifierSet(pins.read_project(pins.ROOT)["requires-python"])
    versions = [f"3.{minor}" for minor in range(30) if declared.contains(f"3.{minor}")]
    assert versions == ["3.11", "3.12", "3.13"]
    assert "(3, 11) <= sys.version_info[:2] < (3, 14)" in SCRIPT.read_text()
