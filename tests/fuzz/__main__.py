"""`make fuzz`: every endpoint with valid and broken calls, first the gateway alone, then engines.

The same seed sends the same cases. Where something fails, the output holds a curl command for it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.fuzz.command import ROOT, FuzzReport, run_schemathesis
from tests.fuzz.server import running_gateway
from tests.serve.service import running_service

CASES_MIN = 10_000
LIMIT_S = 3600.0
"""For each of the two runs; on two cores they take about ten minutes each."""


def main() -> None:
    options = parse_options()
    with tempfile.TemporaryDirectory(prefix="serve-app-fuzz-") as scratch:
        directory = Path(scratch)
        with running_gateway(directory / "feedback") as url:
            reports = [fuzz(url, directory, options)]
        if not options.gateway_only:
            with running_service(ROOT / "configs" / "local.yaml", directory / "service") as service:
                reports.append(fuzz(service.base_url, directory, options))
    cases = sum(report.cases for report in reports)
    print(f"{cases} cases, seed {options.seed}")
    enough = options.gateway_only or cases >= CASES_MIN
    if not enough:
        print(f"fewer than {CASES_MIN}: raise --examples")
    sys.exit(not (enough and all(report.passed for report in reports)))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--examples", type=int, default=50, help="drawn for each endpoint")
    parser.add_argument("--gateway-only", action="store_true", help="without Ray and engines")
    return parser.parse_args()


def fuzz(url: str, directory: Path, options: argparse.Namespace) -> FuzzReport:
    drawn = ("--seed", str(options.seed), "--max-examples", str(options.examples))
    return run_schemathesis(url, directory, *drawn, limit_s=LIMIT_S)


if __name__ == "__main__":
    main()
