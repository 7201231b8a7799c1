"""Which commit a directory holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from serve_app.offline.checkpoints.checkout import (
    METADATA,
    UnclearCommit,
    check_revision,
    find_commit,
    find_snapshot,
)

COMMIT, OTHER = "a" * 40, "b" * 40


def write_cache(root: Path, commit: str = COMMIT) -> Path:
    """A model in the hub's cache, as huggingface_hub lays it out."""
    model = root / "models--Qwen--Qwen3-8B"
    snapshot = model / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (model / "refs").mkdir(exist_ok=True)
    (model / "refs" / "main").write_text(commit)
    return snapshot


def write_download(directory: Path, *commits: str) -> Path:
    """A download to a directory, as `hf download --local-dir` leaves it."""
    notes = directory / METADATA / "deep"
    notes.mkdir(parents=True)
    for number, commit in enumerate(commits):
        (notes / f"{number}.metadata").write_text(f"{commit}\netag\n1.5\n")
    return directory


def test_a_snapshot_is_named_by_its_commit(tmp_path: Path) -> None:
    """A link to it says the same; any other directory says nothing."""
    snapshot = write_cache(tmp_path)
    assert find_commit(snapshot) == COMMIT
    link = tmp_path / "link"
    link.symlink_to(snapshot)
    assert find_commit(link) == COMMIT
    assert find_commit(tmp_path) is None


def test_a_download_notes_its_commit(tmp_path: Path) -> None:
    """Once for each file; of two commits it is neither."""
    assert find_commit(write_download(tmp_path / "one", COMMIT, COMMIT)) == COMMIT
    with pytest.raises(UnclearCommit, match="2 commits"):
        find_commit(write_download(tmp_path / "two", COMMIT, OTHER))
    with pytest.raises(UnclearCommit, match="not a commit"):
        find_commit(write_download(tmp_path / "odd", "main"))


def test_snapshots_are_found_by_model_and_revision(tmp_path: Path) -> None:
    """By main unless a commit or another branch is named; what is not there is not found."""
    snapshot = write_cache(tmp_path)
    assert find_snapshot(tmp_path, "Qwen/Qwen3-8B") == snapshot
    assert find_snapshot(tmp_path, "Qwen/Qwen3-8B", COMMIT) == snapshot
    assert find_snapshot(tmp_path, "Qwen/Qwen3-8B", "main") == snapshot
    for model, revision in (("Qwen/Qwen3-8B", OTHER), ("Qwen/Qwen3-8B", "v2"), ("Qwen/X", None)):
        assert find_snapshot(tmp_path, model, revision) is None


@pytest.mark.parametrize(
    ("revision", "words"),
    [(COMMIT, None), (None, "main branch"), ("main", "'main', which"), ("abc123", "may move")],
)
def test_only_a_full_commit_stays_the_same(revision: object, words: str | None) -> None:
    """A branch, a tag or a short commit is warned of."""
    findings = list(check_revision("where", "Qwen/Qwen3-8B", revision))
    assert [words in finding.what for finding in findings if words] == ([True] if words else [])
    assert not any(finding.fatal for finding in findings)
