"""Disks that are full: a real file system without space, and a real limit of a process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from serve_app.core.errors import AuditUnavailable
from tests.audit.conftest import Place, make_record

ROOT = Path(__file__).parents[2]

BEYOND_THE_LIMIT = """
import resource, sys
from pathlib import Path
from serve_app.core.errors import AuditUnavailable
from tests.audit.conftest import Place, make_record
log = Place(Path(sys.argv[1])).open(seal_s=0, file_bytes_max=2**30)
for number in range(200):
    log.add(make_record(number))
log._writer.work()
assert not log.state().failing
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
for number in range(1000):
    log.add(make_record(number))
log._writer.work()
assert log.state().failing
try:
    log.check()
except AuditUnavailable:
    print("refused")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
log._writer.work(ends=True)
assert not log.state().failing and log.state().written == 1200
"""


@pytest.fixture
def small_disk(place: Place) -> Iterator[Place]:
    """A log on a file system of 256 KiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    place.directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place.directory)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place.directory)], check=True)


def fill(place: Place) -> Path:
    ballast = place.directory / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue
    return ballast


def test_a_full_disk_refuses_calls(small_disk: Place, caplog: pytest.LogCaptureFixture) -> None:
    """`on_full: refuse`: no call is let in, no record is lost, and the log goes on by itself."""
    log = small_disk.open(seal_s=0)
    log.add(make_record(0))
    log._writer.work()
    log.check()
    ballast = fill(small_disk)
    for number in range(100):
        log.add(make_record(number))
    log._writer.work()
    with pytest.raises(AuditUnavailable):
        log.check()
    log.add(make_record(7, code="audit_unavailable", decision=None))
    assert (log.state().failing, log.state().refused, log.state().waiting) == (True, 1, 100)
    ballast.unlink()
    log._writer.work(ends=True)
    log.check()
    [report] = small_disk.verify()
    assert (report.findings, report.calls, report.lost, report.refused) == ([], 101, 0, 1)
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]
    assert "No space left on device" in caplog.text


def test_a_full_disk_loses_records_if_the_config_says_so(
    small_disk: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """`on_full: continue`: calls are answered, and log and metrics count what has no record."""
    log = small_disk.open(seal_s=0, on_full="continue", waiting_max=100)
    log._writer.work()
    ballast = fill(small_disk)
    for number in range(130):
        log.check()
        log.add(make_record(number))
    log._writer.work()
    for number in range(130):
        log.add(make_record(number))
    log.check()
    assert log.state().failing
    lost = log.state().lost
    assert lost >= 30
    ballast.unlink()
    log._writer.work(ends=True)
    [report] = small_disk.verify()
    assert (report.findings, report.calls, report.lost) == ([], 260 - lost, lost)
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]


def test_a_write_that_stops_half_way(place: Place) -> None:
    """A batch that the disk takes in part leaves no half record, and is written whole later."""
    command = [sys.executable, "-c", BEYOND_THE_LIMIT, str(place.root)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "refused\n"), done.stderr
    [report] = place.verify()
    assert (report.findings, report.calls, report.torn_bytes) == ([], 1200, 0)
