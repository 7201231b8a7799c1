"""One run of schemathesis in a process of its own, as its command line and as its report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
CONFIG = Path(__file__).with_name("schemathesis.toml")


@dataclass(frozen=True)
class FuzzReport:
    """How a run ended; `output` is what it printed, empty where it printed to the terminal."""

    cases: int
    passed: bool
    output: str


def run_schemathesis(
    url: str, directory: Path, *options: str, limit_s: float, capture: bool = False
) -> FuzzReport:
    """Send cases to the service at `url`; the report of failures lies in `directory`."""
    report = directory / "report.json"
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG), "run"]
    result = subprocess.run(
        [
            *command,
            f"{url}/openapi.json",
            f"--url={url}",
            *("--report", "json,ndjson"),
            *("--report-json-path", str(report)),
            *("--report-ndjson-path", str(directory / "events.ndjson")),
            *options,
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE if capture else None,
        stderr=subprocess.STDOUT if capture else None,
        text=True,
        timeout=limit_s,
        check=False,
    )
    cases = json.loads(report.read_text())["test_cases"]["generated"]
    return FuzzReport(cases, result.returncode == 0, result.stdout or "")
