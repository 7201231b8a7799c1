"""Makes the demo checkpoints: `python -m serve_app.demo.make [--force]`."""

import argparse
import fcntl
import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from serve_app.demo import CHECKPOINTS, MANIFEST, NAMES

_HERE = Path(__file__).parent
_SOURCE_SUFFIXES = {".py", ".txt", ".jinja"}
_BUILDING_PREFIX = ".building-"


def main(argv: Sequence[str] | None = None, root: Path = CHECKPOINTS) -> None:
    parser = argparse.ArgumentParser(prog="python -m serve_app.demo.make", description=__doc__)
    parser.add_argument("--force", action="store_true", help="make them again if they are there")
    force = parser.parse_args(argv).force
    for name in make(root, force=force):
        sys.stdout.write(f"made {root / name}\n")


def make(root: Path, *, force: bool = False) -> list[str]:
    """Makes the checkpoints that are missing or older than the sources, and returns their names."""
    root.mkdir(parents=True, exist_ok=True)
    with _only_maker(root):
        wanted = [name for name in NAMES if force or not is_complete(root / name)]
        for name in wanted:
            _make_one(name, root)
    return wanted


def is_complete(checkpoint: Path) -> bool:
    """Made by these very sources, with every file at its full size."""
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        return manifest["sources_sha256"] == sources_sha256() and all(
            (checkpoint / name).stat().st_size == file["size_bytes"]
            for name, file in manifest["files"].items()
        )
    except (OSError, ValueError, KeyError):
        return False


def sources_sha256() -> str:
    """Stands for a version number, which somebody would forget to raise."""
    digest = hashlib.sha256()
    for path in sorted(_HERE.iterdir()):
        if path.suffix in _SOURCE_SUFFIXES:
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


@contextmanager
def _only_maker(root: Path) -> Iterator[None]:
    """Holds other makers off, so whatever lies half built here was left by one that died."""
    with (root / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for left in root.glob(f"{_BUILDING_PREFIX}*"):
            shutil.rmtree(left)
        yield


def _make_one(name: str, root: Path) -> None:
    # torch takes seconds to import, and a checkpoint that is there needs none of it.
    from serve_app.demo.checkpoint import write_checkpoint

    with tempfile.TemporaryDirectory(prefix=_BUILDING_PREFIX, dir=root) as scratch:
        built, replaced = Path(scratch, name), Path(scratch, "replaced")
        built.mkdir()
        write_checkpoint(name, built)
        _write_manifest(built)
        # A directory cannot be renamed over a full one: the old one steps aside first.
        if (root / name).exists():
            (root / name).rename(replaced)
        built.rename(root / name)


def _write_manifest(checkpoint: Path) -> None:
    files = {
        path.name: {
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "size_bytes": path.stat().st_size,
        }
        for path in sorted(checkpoint.iterdir())
    }
    manifest = {"sources_sha256": sources_sha256(), "files": files}
    (checkpoint / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
