"""Makes .venv hold what the locks pin: `sh tools/python.sh tools/install.py cpu [dev]`.

A .venv is trusted only while its stamp is there. The stamp goes first and comes back last, so
whatever cuts an install short (Ctrl-C, kill -9, no disk, no network) leaves none, and the next run
starts from an empty .venv. A stamp whose lock has changed since leads to an update in place.
"""

import fcntl
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pins
from environment import Environment, InstallFailed, Venv


def main(locks: Sequence[str]) -> None:
    root = pins.ROOT
    try:
        with one_at_a_time(root):
            install(root, locks, Venv(root), same_python=bool(os.environ.get("PYTHON")))
    except (InstallFailed, OSError) as error:
        sys.exit(f"install: {error}")
    except KeyboardInterrupt:
        sys.exit("install: interrupted; the next run starts from an empty .venv")


@contextmanager
def one_at_a_time(root: Path) -> Iterator[None]:
    # The lock is on the project's directory, because .venv itself may be deleted meanwhile.
    directory = os.open(root, os.O_RDONLY)
    os.set_inheritable(directory, True)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("Waiting for another install in this directory", flush=True)
        fcntl.flock(directory, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(directory)


def install(
    root: Path, locks: Sequence[str], environment: Environment, *, same_python: bool
) -> None:
    """Does nothing where .venv holds the locks, for any Python unless it must be this one."""
    stamp_file = root / ".venv" / "installed.json"
    stamp = read_stamp(stamp_file)
    version = environment.version()
    made_here = {"root": str(root), "python": this_python() if same_python else version}
    trusted = version is not None and made_here.items() <= stamp.items()
    wanted = {lock: digest(root, lock) for lock in locks}
    if trusted and wanted.items() <= stamp.items() and not differences(root, locks, environment):
        return

    stamp_file.unlink(missing_ok=True)
    if trusted:
        print("Updating .venv", flush=True)
    else:
        print(f"Making .venv with Python {this_python()}: one or two minutes, 3 GB", flush=True)
        environment.create()
        stamp = {"root": str(root), "python": this_python()}
    environment.install(locks)
    if wrong := differences(root, locks, environment):
        raise InstallFailed(f"{', '.join(wrong)}; start afresh with: make clean install")
    write_stamp(stamp_file, {**stamp, **wanted})


def this_python() -> str:
    return "{}.{}".format(*sys.version_info)


def digest(root: Path, lock: str) -> str:
    """Changes when an install of the lock would differ: the project itself goes with each."""
    content = pins.lock_file(root, lock).read_bytes() + pins.pyproject(root).read_bytes()
    return hashlib.sha256(content).hexdigest()


def differences(root: Path, locks: Sequence[str], environment: Environment) -> list[str]:
    """How the environment differs from the locks, one phrase a package."""
    project = pins.read_project(root)
    wanted = {project["name"]: project["version"]}
    for lock in locks:
        wanted.update(pins.read_lock(root, lock))
    present = environment.packages()
    return [
        f"{name} is {present.get(name, 'missing')} in .venv, not {version}"
        for name, version in wanted.items()
        if present.get(name) != version
    ] + [f"{name} must not be in .venv" for name in sorted(pins.EXCLUDED & present.keys())]


def read_stamp(path: Path) -> Mapping[str, str]:
    try:
        stamp: Mapping[str, str] = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return stamp


def write_stamp(path: Path, stamp: Mapping[str, str]) -> None:
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(stamp, indent=1))
    draft.replace(path)


if __name__ == "__main__":
    main(sys.argv[1:])
