"""Whether the files of a directory match a list of SHA-256 sums."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from serve_app.model_files.files import Listing, list_files
from serve_app.model_files.finding import Finding
from serve_app.model_files.hashing import Progress, hash_files, no_progress
from serve_app.model_files.sums import SUMS_NAME

_DOCUMENT_SUFFIXES = frozenset({".md", ".pdf", ".png", ".jpg", ".jpeg", ".gif", ".svg"})
_LEGAL_NAMES = ("LICENSE", "LICENCE", "NOTICE")


def check_sums(
    directory: Path,
    expected: Mapping[str, str],
    listing: Listing,
    progress: Progress = no_progress,
) -> list[Finding]:
    """Hash the listed files; find the files that differ, are missing, or are not in the list."""
    wanted = {name: digest.lower() for name, digest in expected.items() if _counts(name)}
    there = {name: size for name, size in listing.files.items() if name in wanted}
    try:
        found = hash_files(directory, there, progress)
    except OSError as error:
        where = Path(error.filename).name if error.filename else str(directory)
        return [Finding(where, f"cannot be read: {error.strerror}", "mend the permissions or disk")]
    return [*_differing(wanted, found), *_unlisted(wanted, listing.files)]


def make_sums(directory: Path, progress: Progress = no_progress) -> dict[str, str]:
    """The sums of every file that is not hidden, for a new list.

    Raises:
        OSError: a file cannot be read.
    """
    files = list_files(directory).files
    visible = {
        name: size
        for name, size in files.items()
        if name != SUMS_NAME and not PurePosixPath(name).name.startswith(".")
    }
    return hash_files(directory, visible, progress)


def _counts(name: str) -> bool:
    """Exclude the list itself, which `sha256sum *` would also sum, and `.git` and `.cache`."""
    return name != SUMS_NAME and not any(
        part.startswith(".") for part in PurePosixPath(name).parent.parts
    )


def _differing(expected: Mapping[str, str], found: Mapping[str, str]) -> Iterator[Finding]:
    mend = "copy the file again; if this was done on purpose, make a new list of sums"
    for name, digest in expected.items():
        if name not in found:
            yield Finding(name, "in the list of sums, but not there", mend)
        elif found[name] != digest:
            yield Finding(name, f"SHA-256 differs: expected {digest}, found {found[name]}", mend)


def _unlisted(expected: Mapping[str, str], names: Iterable[str]) -> Iterator[Finding]:
    mend = "remove the file, or put it on the list: sha256sum prints the line"
    for name in names:
        if name not in expected and is_read_by_engines(name):
            yield Finding(name, "not in the list of sums", mend)


def is_read_by_engines(name: str) -> bool:
    """Whether a file must be listed: hidden files, documents and the list itself need not be."""
    path = PurePosixPath(name)
    legal = path.name.startswith(_LEGAL_NAMES) and path.suffix in ("", ".txt")
    document = legal or path.suffix.lower() in _DOCUMENT_SUFFIXES
    return not (document or path.name.startswith(".") or name == SUMS_NAME)
