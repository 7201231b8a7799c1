"""The disk of the audit log is full for a while."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from serve_app.audit.audit_report import read_calls
from serve_app.audit.seal import read_checker, write_keys
from serve_app.audit.verify import verify_directory
from tests.faults.trial import Subject, run_trial
from tests.outcomes.load import Load
from tests.outcomes.outcome import Outcome, judge
from tests.serve.service import wait_for

pytestmark = [
    pytest.mark.serve,
    pytest.mark.faults,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a small disk"),
]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of a few megabytes."""
    directory = tmp_path / "disk"
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(directory)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("nothing can be mounted here")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def fill(disk: Path) -> Path:
    """A file that takes all room."""
    path = disk / "filler"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return path


def test_a_full_disk_refuses_calls_and_loses_no_record(subject: Subject, small_disk: Path) -> None:
    """Calls are refused while no record can be written; every answered call has its record."""
    keys, log = small_disk.parent / "keys", small_disk / "log"
    keys.mkdir()
    write_keys(keys / "audit.key")
    audit = {"directory": str(log), "key_file": str(keys / "audit.key"), "fsync_s": 0.1}
    subject.service.configure({"audit": audit})
    loads: list[Load] = []

    def strike() -> None:
        filler = fill(small_disk)
        wait_for(lambda: subject.service.chat().status_code == 503, timeout_s=60, what="a refusal")
        filler.unlink()

    try:
        row = run_trial(subject, "the audit log's disk is full", strike, while_loaded=loads.append)
        row.check()
        assert row.failed == 0
        wait_for(lambda: answered(loads[0]) <= recorded(log), timeout_s=30, what="every record")
        for report in verify_directory(log, keys, read_checker([keys / "audit.key.pub"])):
            assert (report.findings, report.lost) == ([], 0)
    finally:
        subject.service.restore()


def answered(load: Load) -> set[str]:
    """The request ids of the calls that got their whole answer."""
    return {each.sent_id for each in load.seen if judge(each) is Outcome.ANSWERED}


def recorded(log: Path) -> set[str]:
    """The request ids in the log."""
    return {str(call["request_id"]) for call in read_calls(log)}
