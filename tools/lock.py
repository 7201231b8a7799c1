"""Writes requirements/*.txt from pyproject.toml: `make lock`, or `make lock UPGRADE=1`.

Without UPGRADE the present pins are kept wherever pyproject.toml allows. Run it with the oldest
Python that the project supports: packages drop old Pythons sooner than they take up new ones.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pins


def main() -> None:
    project = pins.read_project(pins.ROOT)
    extras = project["optional-dependencies"]
    with tempfile.TemporaryDirectory() as scratch:
        resolver = Resolver(Path(scratch))
        cpu = resolver.resolve([*project["dependencies"], *extras["cpu"]], kept("cpu"))
        # On top of the runtime, whose versions are settled.
        dev = resolver.resolve(extras["dev"], {**kept("dev"), **cpu})
    write("cpu", cpu)
    write("dev", {name: version for name, version in dev.items() if name not in cpu})


def kept(lock: str) -> pins.Pins:
    return {} if os.environ.get("UPGRADE") else pins.read_lock(pins.ROOT, lock)


def write(lock: str, content: pins.Pins) -> None:
    pins.lock_file(pins.ROOT, lock).write_text(pins.render_lock(content))
    print(f"requirements/{lock}.txt: {len(content)} packages")


class Resolver:
    """pip in a venv of its own; nothing is installed but pip itself."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._python = scratch / "venv" / "bin" / "python"
        self._wheels = scratch / "wheels"
        subprocess.run([sys.executable, "-m", "venv", scratch / "venv"], check=True)
        self._pip("install", pins.PIP)

    def resolve(self, requirements: Sequence[str], constraints: pins.Pins) -> pins.Pins:
        """Every package that the requirements need, less the excluded ones."""
        self._fetch_torch(requirements)
        settled, report = self._scratch / "settled.txt", self._scratch / "report.json"
        settled.write_text(pins.render_lock(constraints))
        dry_run = ["--dry-run", "--ignore-installed", "--only-binary=:all:"]
        sources = ["--find-links", self._wheels, "--constraint", settled]
        self._pip("install", *dry_run, *sources, "--report", report, *requirements)
        return read_report(report.read_text())

    def _fetch_torch(self, requirements: Sequence[str]) -> None:
        for torch in (item for item in requirements if item.startswith("torch==")):
            download = ["download", "--no-deps", "-d", self._wheels, torch]
            try:
                self._pip(*download, stderr=subprocess.DEVNULL)
            except subprocess.CalledProcessError:
                self._pip(*download, "--index-url", pins.TORCH_INDEX)

    def _pip(self, *arguments: object, stderr: int | None = None) -> None:
        command = [str(self._python), "-I", "-m", "pip", "-qq", *map(str, arguments)]
        subprocess.run(command, check=True, stderr=stderr)


def read_report(text: str) -> pins.Pins:
    """What pip's installation report would install, less the excluded packages."""
    packages = [item["metadata"] for item in json.loads(text)["install"]]
    resolved = {pins.canonical(item["name"]): item["version"] for item in packages}
    return {name: resolved[name] for name in resolved.keys() - pins.EXCLUDED}


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(f"lock: pip failed ({error.returncode}); with UPGRADE=1 the present pins may move")
