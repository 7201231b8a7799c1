"""No change of an audit log passes unnoticed, and no honest log is accused."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve_app.audit.chain import link, origin, split_line
from serve_app.audit.seal import Signer, read_checker, read_signer, write_keys
from serve_app.audit.verify import verify_directory
from tests.audit.conftest import SMALL_FILE, Place, read_lines, write_lines


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A log of three lives and several files, some of them compressed; its Routers have ended."""
    place = Place(tmp_path_factory.mktemp("written") / "place")
    place.keys.mkdir(parents=True)
    write_keys(place.keys / "audit.key")
    for life in range(3):
        for _ in range(3):
            place.write(150, replica=f"r{life}", file_bytes_max=SMALL_FILE, seal_s=0)
    assert {path.suffix for path in place.files()} == {".jsonl", ".gz"}
    return place


def test_an_honest_log(written: Place) -> None:
    """All records are counted, all of them are sealed, and nothing is found."""
    [report] = written.verify()
    assert report.findings == []
    assert (report.calls, report.unsealed, report.ended, report.killed) == (1350, 0, True, 0)
    assert report.files == len(written.files()) > 3
    assert [r.ok for r in written.verify(with_state=False)] == [True]


@st.composite
def damages(draw: st.DrawFn) -> tuple[str, float, float, int]:
    kinds = ["byte", "drop", "double", "swap", "insert", "cut", "remove", "replace", "rechain"]
    ratio = st.floats(0, 0.999999)
    return draw(st.sampled_from(kinds)), draw(ratio), draw(ratio), draw(st.integers(1, 255))


@given(damage=damages())
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_damage_passes(
    written: Place, tmp_path: Path, damage: tuple[str, float, float, int]
) -> None:
    """Whatever is done to whichever line of whichever file, it is found, and by file."""
    shutil.rmtree(tmp_path / "copy", ignore_errors=True)
    place = written.copy(tmp_path / "copy")
    kind, where, line, byte = damage
    files = place.files()
    path = files[int(where * len(files))]
    lines = read_lines(path)
    at = int(line * len(lines))
    if kind == "remove":
        path.unlink()
    elif kind == "replace":
        shutil.copy(files[int(where * len(files)) - 1], path)
    else:
        write_lines(path, damaged(kind, lines, at, byte))
    findings = place.findings()
    assert findings
    assert all(str(place.root) in finding for finding in findings)


def damaged(kind: str, lines: list[bytes], at: int, byte: int) -> list[bytes]:
    line = lines[at]
    if kind == "byte":
        position = byte * len(line) // 256
        return [*lines[:at], flip(line, position, byte), *lines[at + 1 :]]
    if kind == "drop":
        return [*lines[:at], *lines[at + 1 :]]
    if kind == "double":
        return [*lines[: at + 1], line, *lines[at + 1 :]]
    if kind == "swap":
        other = (at + byte) % len(lines)
        other = other if lines[other] != line else (at + 1) % len(lines)
        swapped = list(lines)
        swapped[at], swapped[other] = lines[other], line
        return swapped
    if kind == "insert":
        return [*lines[:at], b'{"seq":5,"kind":"call"}\n', *lines[at:]]
    if kind == "cut":
        return lines[:at]
    return rechain(lines, at)


def flip(line: bytes, position: int, byte: int) -> bytes:
    return line[:position] + bytes([line[position] ^ byte]) + line[position + 1 :]


def rechain(lines: list[bytes], at: int) -> list[bytes]:
    """Change a record and compute all hashes after it, as one who lacks the key can."""
    changed = list(lines)
    previous = bytes.fromhex(orjson.loads(lines[0])["prev"])
    for number, line in enumerate(lines):
        body, _ = split_line(line)
        if number == at:
            body = body[:-1] + b',"x":1}'
        previous = link(previous, body)
        changed[number] = body[:-1] + b',"hash":"' + previous.hex().encode() + b'"}\n'
    return changed


def test_the_last_seal_holds_nothing_else(written: Place, tmp_path: Path) -> None:
    """No later seal covers its line, so somebody without the key could add to it."""
    place = written.copy(tmp_path / "copy")
    path = place.files()[-1]
    lines = read_lines(path)
    write_lines(path, rechain(lines, len(lines) - 1))
    assert ["more than the seal" in finding for finding in place.findings()] == [True]


@pytest.mark.parametrize("seals", [True, False])
def test_a_forged_end_needs_the_newest_seal(written: Place, tmp_path: Path, seals: bool) -> None:
    """A log and its seals that are cut alike are whole by themselves; the directory of the key
    shows that their end is missing."""
    place = written.copy(tmp_path / "copy")
    last = place.files()[-1]
    lines = read_lines(last)
    cut = max(n for n, line in enumerate(lines[:-1]) if b'"kind":"seal"' in line) + 1
    write_lines(last, lines[:cut])
    if seals:
        [path] = place.directory.glob("*.seals")
        write_lines(path, read_lines(path)[:-1])
    assert bool(place.findings(with_state=False)) is not seals
    assert any("missing" in f or "lacks record" in f for f in place.findings())


def test_a_log_that_is_gone(written: Place, tmp_path: Path) -> None:
    """The directory of the key remembers every chain."""
    place = written.copy(tmp_path / "copy")
    for path in place.directory.iterdir():
        path.unlink()
    assert place.verify(with_state=False) == []
    assert any("lacks record" in finding for finding in place.findings())


def test_a_foreign_key(written: Place, tmp_path: Path) -> None:
    """A whole log that was forged with another key does not pass for ours."""
    write_keys(tmp_path / "other.key")
    checker = read_checker([tmp_path / "other.key"])
    [report] = verify_directory(written.directory, None, checker)
    assert any("another key" in finding.what for finding in report.findings)
    both = read_checker([tmp_path / "other.key.pub", written.keys / "audit.key"])
    assert verify_directory(written.directory, None, both)[0].ok


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda line: line.replace(b'"acme"', b'"evil"'), "not as it was written"),
        (lambda line: line[:-3] + b"\n", "no record"),
        (lambda line: b"", "are missing before it"),
        (lambda line: line + line, "comes again"),
    ],
)
def test_findings_name_the_line(
    written: Place, tmp_path: Path, change: Callable[[bytes], bytes], words: str
) -> None:
    """An operator opens the file at the line."""
    place = written.copy(tmp_path / "copy")
    last = place.files()[-1]
    lines = read_lines(last)
    at = next(number for number, line in enumerate(lines) if b'"kind":"call"' in line)
    write_lines(last, [*lines[:at], change(lines[at]), *lines[at + 1 :]])
    findings = place.findings()
    places = [re.match(rf"{re.escape(str(last))}:(\d+): (.*)", finding) for finding in findings]
    assert any(
        found and words in found[2] and int(found[1]) in (at + 1, at + 2) for found in places
    )


def test_a_seal_moved_to_another_chain(written: Place, tmp_path: Path) -> None:
    """A signature is for one chain, file, number and hash."""
    place = written.copy(tmp_path / "copy")
    signer: Signer = read_signer(place.keys / "audit.key")
    seal = signer.sign("node-2", 1, 5, origin("node-2"), 1.0)
    [path] = place.directory.glob("*.seals")
    path.write_bytes(path.read_bytes() + orjson.dumps(seal) + b"\n")
    assert any("another chain" in finding for finding in place.findings())
