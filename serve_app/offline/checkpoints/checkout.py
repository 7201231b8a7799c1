"""The commit of a hub's repository that a directory holds, from the files of the download."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from serve_app.model_files.finding import Finding

COMMIT = re.compile(r"[0-9a-f]{40}")
METADATA = Path(".cache", "huggingface", "download")
"""The folder where `hf download --local-dir` records the commit of each file."""
METADATA_BYTES_MAX = 4096


class UnclearCommit(ValueError):
    """The files of a directory do not come from one known commit; the message says why."""


def find_commit(directory: Path) -> str | None:
    """The commit of a snapshot in the hub's cache, or of a download to a directory.

    Returns None if no file records the commit.

    Raises:
        UnclearCommit: the directory's files come from several commits.
    """
    resolved = directory.resolve()
    if resolved.parent.name == "snapshots" and COMMIT.fullmatch(resolved.name):
        return resolved.name
    commits = {_read_commit(path) for path in sorted((directory / METADATA).rglob("*.metadata"))}
    if len(commits) > 1:
        raise UnclearCommit(
            f"{directory}: its files come from {len(commits)} commits; download all of "
            "them again from one"
        )
    return next(iter(commits), None)


def _read_commit(path: Path) -> str:
    with path.open(encoding="utf-8", errors="replace") as file:
        commit = file.read(METADATA_BYTES_MAX).partition("\n")[0].strip()
    if not COMMIT.fullmatch(commit):
        raise UnclearCommit(f"{path}: its first line is not a commit")
    return commit


def find_snapshot(cache: Path, model: str, revision: str | None = None) -> Path | None:
    """The directory of a model in the hub's cache, at a commit, branch or tag; `main` if None."""
    root = cache / f"models--{model.replace('/', '--')}"
    name = revision or "main"
    if not COMMIT.fullmatch(name):
        try:
            name = (root / "refs" / name).read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            return None
    snapshot = root / "snapshots" / name
    return snapshot if COMMIT.fullmatch(name) and snapshot.is_dir() else None


def check_revision(where: str, model: str, revision: object) -> Iterator[Finding]:
    """Check that all engines which download a model from the hub get the same files."""
    if isinstance(revision, str) and COMMIT.fullmatch(revision):
        return
    what = f"'{model}' is fetched from the hub at "
    if revision is None:
        what += "the head of its main branch at the time when an engine starts"
    else:
        what += f"'{revision}', which is not a full commit and may move"
    mend = "set it to a commit of 40 hexadecimal digits: serve-app pin, or the model's page"
    yield Finding(where, what, mend, fatal=False)
