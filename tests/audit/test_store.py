"""A chain goes on where the last Router stopped, however that Router ended."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from serve_app.audit.seal import read_signer
from serve_app.audit.store import ChainStore, StoreOptions
from serve_app.config.tiers import DAY_S
from tests.audit.conftest import SMALL_FILE, Place, read_lines, write_lines

WRITE_FOR_EVER = """
import sys
from pathlib import Path
from tests.audit.conftest import Place, make_record
log = Place(Path(sys.argv[1])).open("killed", fsync_s=0.01, seal_s=0, file_bytes_max=65536)
log.start()
number = 0
while True:
    if log.state().waiting < 50:
        log.add(make_record(number))
        number += 1
    if log.state().written > 300:
        print("written", flush=True)
"""
LINE = {"time": "2027-01-15T08:00:00.000+00:00"}
ROOT = Path(__file__).parents[2]


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def make_store(place: Place, clock: Clock | None = None, **changes: object) -> ChainStore:
    fields = {
        "directory": place.directory,
        "state_directory": place.keys,
        "file_bytes_max": SMALL_FILE,
        "rotate_s": 3600.0,
        "compresses": True,
        "retention_days": None,
        "host": "node",
        "replica": "r1",
    }
    options = StoreOptions(**{**fields, **changes})  # type: ignore[arg-type]
    return ChainStore(options, read_signer(place.keys / "audit.key"), clock or Clock())


def starts(place: Place) -> list[dict[str, object]]:
    lines = [line for path in place.files() for line in read_lines(path)]
    return [orjson.loads(line) for line in lines if b'"kind":"start"' in line]


def test_a_router_that_is_killed(place: Place) -> None:
    """After a kill in the middle of writing, the next Router continues the same chain, and the log
    says what happened."""
    killed = 0
    for _ in range(3):
        command = [sys.executable, "-c", WRITE_FOR_EVER, str(place.root)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"written\n"
            process.send_signal(signal.SIGKILL)
        killed += 1
        assert process.returncode == -signal.SIGKILL
        assert place.findings() == []
    place.write(5)
    [report] = place.verify()
    assert report.findings == []
    assert (report.killed, report.ended) == (killed, True)
    assert report.calls > 900
    assert [start["previous"] for start in starts(place)] == [None, *["killed"] * 3]


@pytest.mark.parametrize("torn", [b'{"seq":9,"kind":"call","ti', b"\xff" * 70_000])
def test_a_torn_line_is_cut_off_and_noted(place: Place, torn: bytes) -> None:
    """Bytes after the last whole line are no record; the next start says how many there were."""
    place.write(3)
    with place.files()[-1].open("ab") as file:
        file.write(torn)
    [path] = place.directory.glob("*.seals")
    with path.open("ab") as file:
        file.write(b'{"chain":"no')
    place.write(2)
    [report] = place.verify()
    assert (report.findings, report.calls, report.torn_bytes) == ([], 5, len(torn))


def test_two_routers_of_a_machine_have_two_chains(place: Place) -> None:
    """A chain belongs to one living Router; a later Router takes the first free chain."""
    one, two = make_store(place), make_store(place)
    one.open()
    two.open()
    assert (one.chain, two.chain) == ("node-1", "node-2")
    one.close()
    three = make_store(place)
    three.open()
    assert three.chain == "node-1"
    three.close()
    two.close()
    assert [report.ok for report in place.verify()] == [True, True]


def test_a_log_that_was_cut_before_a_start_stays_so(place: Place) -> None:
    """A Router that starts after the end was cut off leaves the gap visible for ever."""
    place.write(20)
    [path] = place.files()
    write_lines(path, read_lines(path)[:5])
    [seals] = place.directory.glob("*.seals")
    write_lines(seals, read_lines(seals)[:1])
    for _ in range(3):
        place.write(20)
        assert any("are missing" in finding for finding in place.findings())


def test_a_log_that_is_gone_before_a_start_stays_so(place: Place) -> None:
    """The chain is not begun anew."""
    place.write(20)
    for path in place.directory.iterdir():
        path.unlink()
    place.write(3)
    assert any("missing" in finding for finding in place.findings())


def test_a_seal_that_was_not_filed_is_filed_later(place: Place) -> None:
    """A Router may be killed after a seal is in the chain and before it is in the other places."""
    place.write(3)
    [seals] = place.directory.glob("*.seals")
    [state] = place.keys.glob("*.seal")
    lines = read_lines(seals)
    write_lines(seals, lines[:-1])
    state.write_bytes(lines[-2])
    place.write(3)
    assert place.findings() == []
    assert read_lines(seals)[: len(lines)] == lines


@pytest.mark.parametrize("begun", [b"", b'{"seq":7,"kind":"fi'])
def test_a_router_that_is_killed_at_a_rotation(place: Place, begun: bytes) -> None:
    """A file that was made and has no record yet is begun again."""
    place.write(3)
    (place.directory / "node-1.000002.jsonl").write_bytes(begun)
    place.write(3)
    [report] = place.verify()
    assert (report.findings, report.calls, report.files) == ([], 6, 2)
    assert report.torn_bytes == len(begun)


def test_a_state_directory_that_fails_for_a_while(place: Place) -> None:
    """The seal comes to its third place later."""
    store = make_store(place)
    store.open()
    [state] = place.keys.glob("*.seal")
    state.with_name(f"{state.name}.unfinished").mkdir()
    store.append([("call", LINE)])
    with pytest.raises(IsADirectoryError):
        store.seal()
    before = state.read_bytes()
    state.with_name(f"{state.name}.unfinished").rmdir()
    store.seal()
    assert state.read_bytes() != before
    store.close()
    assert place.findings() == []


def test_rotation_by_age(place: Place) -> None:
    """An old file is closed at the next record; an idle Router makes no files."""
    clock = Clock()
    store = make_store(place, clock)
    store.open()
    for _ in range(4):
        clock.now += 3600
        store.append([("call", LINE)])
    clock.now += 36000
    store.close()
    assert [path.suffix for path in place.files()] == [".gz", ".gz", ".gz", ".jsonl", ".jsonl"]
    assert place.findings() == []


def test_retention(place: Place) -> None:
    """Old files are deleted after a signed record; files that are deleted otherwise are missed."""
    clock = Clock()
    store = make_store(place, clock, retention_days=2)
    store.open()
    for day in range(6):
        clock.now += DAY_S
        store.append([("call", LINE)] * 3)
        assert day < 2 or len(place.files()) <= 4
        assert place.findings() == []
    store.close()
    [report] = place.verify()
    assert report.deleted_to > 0
    assert not (place.directory / "node-1.000001.jsonl.gz").exists()
    place.files()[0].unlink()
    assert any("the files before it are missing" in finding for finding in place.findings())


def test_a_compression_that_was_interrupted(place: Place) -> None:
    """Both copies of a file may be there; that is no finding unless they differ."""
    for _ in range(3):
        place.write(150, file_bytes_max=SMALL_FILE)
    packed = next(path for path in place.files() if path.suffix == ".gz")
    plain = packed.with_suffix("")
    write_lines(plain, read_lines(packed))
    assert place.findings() == []
    write_lines(packed, read_lines(plain)[:-1])
    assert any("it differs from" in finding for finding in place.findings())


def test_names_of_hosts(place: Place) -> None:
    """A host's name is made safe for a file."""
    store = make_store(place, host="../weird name.example")
    store.open()
    store.close()
    assert store.chain == "---weird-name-example-1"
    assert place.findings() == []
