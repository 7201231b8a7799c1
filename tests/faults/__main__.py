"""`make faults`: every fault and drain under load, and the table into docs/guarantees.md.

The page is written only if every test has passed, and all of them have run.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from serve_app.offline.bench.machine import describe_machine
from tests.faults.trial import ROWS
from tests.outcomes.fault_table import read_rows, render_table, write_between_markers
from tests.outcomes.load import CLIENTS

ROOT = Path(__file__).parents[2]
FOLDERS = ("tests/faults", "tests/serve")
PAGE = ROOT / "docs" / "guarantees.md"


def main() -> None:
    options = parse_options()
    with tempfile.TemporaryDirectory(prefix="serve-app-faults-") as scratch:
        rows = Path(scratch) / "rows.jsonl"
        code = run_tests(options.tests, rows)
        table = render_table(read_rows(rows), describe(options.note))
    print(table)
    if code == 0 and not options.tests:
        PAGE.write_text(write_between_markers(PAGE.read_text(), table))
        print(f"Written to {PAGE.relative_to(ROOT)}")
    sys.exit(code)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__)
    parser.add_argument("tests", nargs="*", help="some tests only; writes no page")
    parser.add_argument("--note", default="", help="what else the reader of the figures must know")
    return parser.parse_args()


def run_tests(tests: list[str], rows: Path) -> int:
    """Pytest's exit code; the tests add their rows to the file."""
    command = [sys.executable, "-m", "pytest", "-m", "faults", *(tests or FOLDERS)]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, ROWS: str(rows)}).returncode


def describe(note: str) -> str:
    """When and where the figures were measured."""
    machine = describe_machine()
    where = f"{machine.cores} cores of {machine.cpu}, {machine.memory_gib:.0f} GiB of memory"
    what = f"commit {machine.commit}, {CLIENTS} clients without a pause"
    return f"{machine.at}, {where}, {what}{f'; {note}' if note else ''}."


if __name__ == "__main__":
    main()
