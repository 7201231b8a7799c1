"""What a Router process imports: the packages that serve, and nothing else."""

from __future__ import annotations

import subprocess
import sys

import pytest

LOADED = """
import sys
import serve_app.router
print("\\n".join(sorted(sys.modules)))
"""


@pytest.fixture(scope="module")
def loaded() -> set[str]:
    """The modules of a process that has imported the Router."""
    command = [sys.executable, "-W", "ignore", "-c", LOADED]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "package",
    [
        "serve_app.offline",
        "serve_app.cli",
        "serve_app.replica",
        "serve_app.audit",
        "vllm",
        "torch",
        "transformers",
        "sklearn",
        "scipy",
        "PIL",
        "rich",
        "typer",
    ],
)
def test_a_router_does_not_import(loaded: set[str], package: str) -> None:
    """Its start and its memory would pay for what it never calls."""
    assert "serve_app.pipeline" in loaded
    assert not {name for name in loaded if name == package or name.startswith(f"{package}.")}
