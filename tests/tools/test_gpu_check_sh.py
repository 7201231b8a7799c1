"""`make gpu-check` where a GPU is."""

from __future__ import annotations

import subprocess
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "tools" / "gpu_check.sh"


def program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def run(directory: Path, **env: str) -> list[str]:
    """The lines that the script prints in a directory of its own."""
    paths = {"PATH": "/usr/bin:/bin", **env}
    done = subprocess.run(
        ["sh", str(SCRIPT), "--batches=1"],
        cwd=directory,
        env=paths,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def test_an_environment_that_is_there_is_used(tmp_path: Path) -> None:
    """Nothing is installed into it; the section goes to the log."""
    program(tmp_path / "mine/bin/serve-app", 'echo "$@"')
    assert run(tmp_path, GPU_VENV="mine") == ["bench gpu --log=docs/bench-log.md --batches=1"]


def test_an_environment_is_made_once(tmp_path: Path) -> None:
    """From the lock where there is one, with nothing that the lock does not name."""
    program(
        tmp_path / "python",
        'mkdir -p "$3/bin"; cp pip "$3/bin/pip"; cp serve "$3/bin/serve-app"',
    )
    program(tmp_path / "pip", 'echo "pip $@"')
    program(tmp_path / "serve", 'echo "serve-app $@"')
    python = str(tmp_path / "python")
    said = run(tmp_path, PYTHON=python)
    assert said[1:] == [
        "pip install -e .[gpu]",
        "serve-app bench gpu --log=docs/bench-log.md --batches=1",
    ]
    assert run(tmp_path, PYTHON=python) == said[2:]
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements/gpu.txt").touch()
    said = run(tmp_path, PYTHON=python, GPU_VENV="other")
    assert said[1:3] == [
        "pip install --no-deps --require-hashes -r requirements/gpu.txt",
        "pip install --no-deps --no-build-isolation -e .",
    ]
