"""What a Router process imports, and the layers as CONTRIBUTING describes them."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALIASES = {"tiers"}
"""Names from before the packages moved; they only stand in users' files."""

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
        # Steps that no config has asked for.
        "serve_app.limits",
        "redis",
        "sqlalchemy",
        "fsspec",
        "serve_app.audit",
        "serve_app.traces",
        "opentelemetry.exporter.otlp",
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


def parse_layer(line: str) -> frozenset[str]:
    """The packages of a layer; packages in brackets are not written yet."""
    return frozenset(re.findall(r"(?<!\()\b[a-z_]+\b(?!\))", line))


def test_contributing_draws_the_layers_of_the_contract() -> None:
    """The picture and the contract that `make lint` checks name the same layers in one order."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    [drawn] = re.findall(r"```\n(cli > .*?)```", text, re.S)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contract = project["tool"]["importlinter"]["contracts"][0]
    assert contract["containers"] == ["serve_app"]
    assert list(map(parse_layer, drawn.split(">"))) == list(map(parse_layer, contract["layers"]))


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "README.md"])
def test_the_table_of_folders_is_complete(page: str) -> None:
    """Every folder and module of `serve_app/` is in the table, and the table names no other."""
    package = ROOT / "serve_app"
    folders = {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}
    modules = {path.name for path in package.glob("*.py")} - {"__init__.py"}
    rows = re.findall(r"^\| (`[^|]*`) \|", (ROOT / page).read_text(), re.M)
    named = {name for row in rows for name in re.findall(r"`(\w+(?:/|\.py))`", row)}
    assert named == (folders | modules) - {f"{name}/" for name in ALIASES}
