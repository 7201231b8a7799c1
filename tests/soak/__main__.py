"""`make soak`: mixed traffic for long, and whether the service's processes stay as they are."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import tempfile
import time
from pathlib import Path

import yaml

from serve_app.offline.bench.machine import describe_machine
from tests.serve.service import ROOT, Service, running_service
from tests.soak.page import Run, passed, render_page
from tests.soak.samples import Sample, by_process, read_samples
from tests.soak.traffic import Traffic, stop

CONFIG = ROOT / "configs" / "local.yaml"
SAMPLE_S = 15.0


def main() -> None:
    options = parse_options()
    # An exception, so that the service ends in order.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with (
        tempfile.TemporaryDirectory(prefix="serve-app-soak-") as scratch,
        running_service(CONFIG, Path(scratch) / "service") as service,
    ):
        keep_feedback(service, Path(scratch) / "feedback")
        run = asyncio.run(soak(service, options))
    page = render_page(run)
    options.page.write_text(page, encoding="utf-8")
    print(page)
    sys.exit(1 if passed(run) is False else 0)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=1800)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "soak.md")
    return parser.parse_args()


def keep_feedback(service: Service, directory: Path) -> None:
    """Let the service keep calls and take verdicts, which `configs/local.yaml` leaves off."""
    [application] = yaml.safe_load(CONFIG.read_text())["applications"]
    [router] = application["deployments"]
    feedback = {"directory": str(directory), "sample_ratio": 0.2, "consent": "assumed"}
    service.configure({**router["user_config"], "feedback": feedback})


async def soak(service: Service, options: argparse.Namespace) -> Run:
    """Call and measure, both until the time is over."""
    machine, samples = describe_machine(), list[Sample]()
    traffic = Traffic(service.base_url, options.seed)
    watching = asyncio.create_task(watch(service, samples))
    await traffic.run(options.clients, options.seconds)
    await stop(watching)
    return Run(
        machine,
        options.seconds,
        options.clients,
        by_process(samples),
        traffic.answers,
        traffic.wrong,
    )


async def watch(service: Service, samples: list[Sample]) -> None:
    """Read the processes every `SAMPLE_S`, in a thread: reading their memory takes a moment."""
    began_at = time.monotonic()
    while True:
        at_s = time.monotonic() - began_at
        samples += await asyncio.to_thread(read_samples, service, at_s)
        await asyncio.sleep(SAMPLE_S)


if __name__ == "__main__":
    main()
