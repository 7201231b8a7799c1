"""An audit log in a temporary directory, and what a test does to it."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from serve_app.audit.build import build_log
from serve_app.audit.log import AuditLog
from serve_app.audit.seal import read_checker, write_keys
from serve_app.audit.verify import ChainReport, verify_directory
from serve_app.config.audit import AuditConfig
from serve_app.core.call import Decision, Endpoint, Reason, Record, Usage
from serve_app.core.caller import Caller

SMALL_FILE = 64 * 1024


@dataclass(frozen=True)
class Place:
    """The directories of one log."""

    root: Path

    @property
    def directory(self) -> Path:
        return self.root / "log"

    @property
    def keys(self) -> Path:
        return self.root / "keys"

    def config(self, **changes: object) -> AuditConfig:
        fields = {"directory": str(self.directory), "key_file": str(self.keys / "audit.key")}
        return AuditConfig.model_validate({**fields, **changes})

    def open(self, replica: str = "r1", **changes: object) -> AuditLog:
        return build_log(self.config(**changes), "EUR", replica, "node")

    def write(self, count: int, replica: str = "r1", **changes: object) -> None:
        """One Router's life: it starts, writes some records and ends."""
        log = self.open(replica, **changes)
        for number in range(count):
            log.add(make_record(number))
        log.start()
        log._writer.stop()

    def verify(self, *, with_state: bool = True) -> list[ChainReport]:
        checker = read_checker([self.keys / "audit.key.pub"])
        return verify_directory(self.directory, self.keys if with_state else None, checker)

    def findings(self, *, with_state: bool = True) -> list[str]:
        reports = self.verify(with_state=with_state)
        return [str(finding) for report in reports for finding in report.findings]

    def files(self) -> list[Path]:
        return sorted(self.directory.glob("*.jsonl*"))

    def copy(self, root: Path) -> Place:
        shutil.copytree(self.root, root)
        return Place(root)


def make_record(number: int = 0, tenant: str = "acme", **changes: object) -> Record:
    record = Record(
        f"r{number}",
        Endpoint.CHAT,
        stream=True,
        arrived_at=1_800_000_000.0 + number,
        decision=Decision("fast", "demo-fast", Reason.SIMPLE, 0.3, 0.5),
        status=200,
        total_s=0.5,
        usage=Usage(10, 5, 4),
        caller=Caller(tenant, key_id="k1", address="10.0.0.1"),
        cost=1000,
        strong_cost=4000,
    )
    for name, value in changes.items():
        setattr(record, name, value)
    return record


def read_lines(path: Path) -> list[bytes]:
    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix == ".gz" else data).splitlines(keepends=True)


def write_lines(path: Path, lines: Sequence[bytes]) -> None:
    data = b"".join(lines)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A place with keys and without a log."""
    place = Place(tmp_path / "place")
    place.keys.mkdir(parents=True)
    write_keys(place.keys / "audit.key")
    return place


Damage = Callable[[list[bytes]], list[bytes]]
