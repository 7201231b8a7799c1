"""torchvision for the CPU engine's vision-language models, in a directory of its own.

vLLM's Qwen-VL models import torchvision, of which the package registry has builds for CUDA alone.
Their compiled part does not load beside PyTorch's CPU build, and without it two operators are not
defined that torchvision then names at import. The models need only the part in Python. The
directory is for one tier's `PYTHONPATH`: in the environment itself it would break the text models'
imports wherever the two operators are missing.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

LOCK = Path(__file__).parents[2] / "requirements" / "gpu.txt"
OPERATORS = """

for _name in ("nms", "qnms"):
    torch.library.define(
        f"torchvision::{_name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
    )
"""


def find_torchvision() -> Path:
    """The directory, which is kept for the next run; skips the test if the registry is away."""
    found = re.search(r"^torchvision==(\S+)", LOCK.read_text(), re.MULTILINE)
    assert found is not None
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    kept = Path(tempfile.gettempdir()) / f"serve-app-torchvision-{found[1]}-{python}"
    if not kept.exists():
        _install(found[1], kept)
    return kept


def _install(version: str, directory: Path) -> None:
    making = Path(tempfile.mkdtemp(dir=directory.parent))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    done = subprocess.run(
        [*command, "--target", str(making), f"torchvision=={version}"], capture_output=True
    )
    if done.returncode:
        pytest.skip("no package registry has torchvision")
    with (making / "torchvision" / "extension.py").open("a") as file:
        file.write(OPERATORS)
    making.rename(directory)
