"""SHA256SUMS: what `sha256sum` writes is read, and what we write it checks."""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.model_files.sums import BadSums, parse_sums, read_sums, render_sums, write_sums

A, B = "a" * 64, "b" * 64
NAMES = ("plain", "with space", "new\nline", "back\\slash", "car\rriage", "*star", "文件", "\udcff")


@pytest.fixture
def odd(tmp_path: Path) -> dict[str, str]:
    """Files with names that need care, and their sums."""
    for name in NAMES:
        (tmp_path / name).write_text(name, errors="surrogateescape")
    return {name: hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in NAMES}


@pytest.mark.parametrize("mode", ["--text", "--binary"])
def test_what_sha256sum_writes_is_read(tmp_path: Path, odd: dict[str, str], mode: str) -> None:
    """Both forms, with every name that coreutils escapes."""
    command = ["sha256sum", mode, "--", *NAMES]
    printed = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True).stdout
    assert parse_sums(printed) == odd


def test_sha256sum_checks_what_is_written(tmp_path: Path, odd: dict[str, str]) -> None:
    """An operator without this package can check the list too."""
    write_sums(tmp_path, odd)
    command = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert read_sums(tmp_path / "SHA256SUMS") == odd
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*NAMES, "SHA256SUMS"])


@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1).filter(
            lambda name: name not in (".", "..")
        ),
        st.just(A),
        min_size=1,
    )
)
def test_any_name_survives(sums: dict[str, str]) -> None:
    """Rendering and parsing give the same mapping."""
    assert parse_sums(render_sums(sums)) == sums


@given(st.binary())
def test_any_bytes_are_sums_or_bad(data: bytes) -> None:
    """Nothing but BadSums leaves the parser."""
    with contextlib.suppress(BadSums):
        assert parse_sums(data)


@pytest.mark.parametrize(
    ("text", "sums"),
    [
        (f"{A.upper()}  x\n", {"x": A}),
        (f"{A}  ./sub/x\r\n\r\n{B} *y", {"sub/x": A, "y": B}),
        (f"{A}  x\n{A}  ./x\n", {"x": A}),
    ],
)
def test_harmless_variants(text: str, sums: dict[str, str]) -> None:
    """Capitals, `./`, Windows' line ends, no last line end, a line said twice."""
    assert parse_sums(text.encode()) == sums


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no sums"),
        ("\n\n", "no sums"),
        (f"{A[1:]}  x\n", "line 1: expected 64"),
        (f"{A}  x\nSHA256 (x) = {A}\n", "line 2: expected 64"),
        (f"{A}  /etc/passwd\n", "not a path within"),
        (f"{A}  sub/../../x\n", "not a path within"),
        (f"{A}  x\n{B}  x\n", "line 2: a second, different sum of 'x'"),
    ],
)
def test_a_bad_list_is_refused(text: str, words: str) -> None:
    """The message says which line, and what was expected."""
    with pytest.raises(BadSums, match=words):
        parse_sums(text.encode())


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    """The list is there as a whole, or not at all."""
    (tmp_path / "SHA256SUMS").mkdir()
    with pytest.raises(OSError, match="SHA256SUMS"):
        write_sums(tmp_path, {"x": A})
    assert [path.name for path in tmp_path.iterdir()] == ["SHA256SUMS"]
