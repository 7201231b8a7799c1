"""A batch of many lines takes little memory: files are read, checked and written in pieces."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

LINES, LINE_BYTES = 4_000, 10_000
GROWN_MB_MAX = 30
"""The file has 40 MB."""


@pytest.mark.slow
def test_a_large_batch_is_never_in_memory(tmp_path: Path) -> None:
    """Each stage grows the process by less than the file has bytes, and every line is answered."""
    command = [sys.executable, "-m", "tests.batches.large", str(tmp_path), str(LINES)]
    done = subprocess.run([*command, str(LINE_BYTES)], capture_output=True, text=True, check=True)
    *stages, end = map(json.loads, done.stdout.splitlines())
    assert [stage["stage"] for stage in stages] == ["upload", "validate", "answer", "write"]
    assert max(stage["grown_mb"] for stage in stages) < GROWN_MB_MAX, stages
    counts = {"total": LINES, "completed": LINES, "failed": 0}
    assert (end["batch"]["request_counts"], end["output_lines"]) == (counts, LINES)
