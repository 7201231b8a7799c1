"""The models of the config on this machine's disks."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from serve_app.config.tiers import DEMO_PREFIX, TierConfig
from serve_app.offline.checkpoints.check import check_model
from serve_app.offline.doctor.finding import CheckResult, Level, note, ok

READ_BYTES = 256 * 1024 * 1024
GB = 1e9
READ_S_MAX = 600.0


def check_model_of(tier: TierConfig, locate: Callable[[str], Path]) -> Iterator[CheckResult]:
    """Check the model's files, without their sums, and how fast they can be read.

    `locate` finds a demo model by its name.
    """
    check = f"model of {tier.name}"
    if tier.source.startswith(DEMO_PREFIX):
        directory = locate(tier.source.removeprefix(DEMO_PREFIX))
    elif tier.source.startswith("/"):
        directory = Path(tier.source)
    else:
        yield note(
            check, f"{tier.source} is not a directory here; the engine downloads it at its start"
        )
        return
    if not directory.is_dir():
        yield CheckResult(
            Level.ERROR,
            check,
            f"{directory} does not exist",
            "A replica that is placed on this node does not start.",
            "Copy the model to this directory on every node that may run a replica.",
        )
        return
    if tier.engine.get("load_format") == "dummy":
        yield note(
            check, "load_format is dummy: the weights are random, and no weight file is read"
        )
        return
    report = check_model(directory, hashes=False)
    for finding in report.findings:
        level = Level.ERROR if finding.fatal else Level.WARNING
        yield CheckResult(level, check, f"{finding.where}: {finding.what}", "", finding.mend)
    if report.ok:
        yield ok(check, report.checked["weights"])
    if tier.sha256sums is None:
        yield CheckResult(
            Level.WARNING,
            check,
            "the model's files are not pinned",
            "A replica would serve a damaged or replaced file.",
            f"serve-app verify {directory} --write-sums, and `sha256sums: SHA256SUMS` in the tier.",
        )
    yield from _check_rate(check, directory)


def _check_rate(check: str, directory: Path) -> Iterator[CheckResult]:
    files = sorted(directory.glob("*.safetensors"), key=lambda path: path.stat().st_size)
    if not files:
        return
    whole = sum(path.stat().st_size for path in files)
    rate = measure_read_rate(files[-1])
    read_s = whole / rate
    what = f"{whole / GB:.1f} GB at {rate / GB:.2f} GB/s: {read_s:.0f} s to read"
    if read_s <= READ_S_MAX:
        yield ok(check, what)
        return
    yield CheckResult(
        Level.WARNING,
        check,
        what,
        "Every new replica takes at least this long to start, while calls wait for it.",
        "Use a faster disk, a copy on the node, or a smaller (quantised) model.",
    )


def measure_read_rate(path: Path) -> float:
    """Bytes per second at which the first part of a file is read, from the disk where possible."""
    file = os.open(path, os.O_RDONLY)
    try:
        # Drop the pages that earlier readers left in the page cache; dirty pages stay.
        os.posix_fadvise(file, 0, READ_BYTES, os.POSIX_FADV_DONTNEED)
        started, left = time.perf_counter(), READ_BYTES
        while left > 0 and (chunk := os.read(file, min(left, 1 << 22))):
            left -= len(chunk)
        return (READ_BYTES - left) / max(time.perf_counter() - started, 1e-9)
    finally:
        os.close(file)
