"""requirements/gpu.txt: what no machine without GPUs can install, but can resolve."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import requires
from itertools import product
from pathlib import Path

import pins
import pytest
from check_locks import check_gpu
from lock import GpuResolver, read_pylock, render_pylock
from packaging.requirements import Requirement

LOCK = pins.lock_file(pins.ROOT, "gpu")
every_target = pytest.mark.parametrize(
    ("python", "platform"), list(product(pins.GPU_PYTHONS, pins.GPU_PLATFORMS))
)


def uv(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """uv as `make lock` runs it: without settings of this machine, without another Python."""
    command = [sys.executable, "-m", "uv", *arguments, "--no-config", "--no-python-downloads"]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Skips where no package registry answers, which one small package shows."""
    asked = tmp_path_factory.mktemp("uv") / "asked.in"
    asked.write_text("idna\n")
    result = uv("pip", "compile", "--no-cache", asked)
    if "No module named uv" in result.stderr:
        pytest.skip("uv is not installed: make install-dev")
    if result.returncode:
        pytest.skip(f"no package registry is in reach: {result.stderr.strip().splitlines()[-1]}")


@pytest.mark.slow
@every_target
def test_the_lock_resolves_on_every_kind_of_gpu_node(
    registry: None, tmp_path: Path, python: str, platform: str
) -> None:
    """Each pin has a wheel there with one of its sums, and no requirement contradicts another."""
    result = uv(
        *("pip", "install", "--dry-run", "--require-hashes", "--only-binary", ":all:"),
        *("--python-version", python, "--python-platform", platform),
        *("--target", tmp_path, "--requirements", LOCK),
    )
    assert result.returncode == 0, result.stderr
    assert f"Resolved {len(pins.read_lock(pins.ROOT, 'gpu'))} packages" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("python", "platform"),
    [("3.12", "x86_64-manylinux_2_34"), ("3.13", "aarch64-manylinux_2_34")],
)
def test_the_lock_is_complete(registry: None, tmp_path: Path, python: str, platform: str) -> None:
    """What pyproject.toml asks for on a GPU node is in it, and no more: `--no-deps` suffices."""
    constraints = tmp_path / "constraints.txt"
    locked = pins.read_lock(pins.ROOT, "gpu")
    constraints.write_text(pins.render_lock(locked))
    extras = [f"--extra={extra}" for extra in ("gpu", *pins.SERVING_EXTRAS)]
    result = uv(
        *("pip", "compile", pins.pyproject(pins.ROOT), *extras, "--no-annotate"),
        *("--python-version", python, "--python-platform", platform),
        *("--only-binary", ":all:", "--constraints", constraints),
    )
    assert result.returncode == 0, result.stderr
    assert pins.parse_lock(result.stdout) == locked


def test_the_lock_holds_what_the_installed_ray_asks_for() -> None:
    """By the metadata of the pinned Ray: its extra `llm`, which no CPU environment can install."""
    locked = pins.read_lock(pins.ROOT, "gpu")
    environment = {"extra": "llm", "python_version": "3.12", "sys_platform": "linux"}
    wanted = [
        requirement
        for requirement in map(Requirement, requires("ray") or [])
        if requirement.marker is None or requirement.marker.evaluate(environment)
    ]
    assert "vllm" in {requirement.name for requirement in wanted}
    for requirement in wanted:
        assert requirement.specifier.contains(locked[pins.canonical(requirement.name)]), requirement


GOOD = {
    "vllm": "0.29.0",
    "torch": "2.13.0",
    "nvidia-cuda-runtime": "13.0.96",
}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({}, None),
        ({"vllm": "0.30.0"}, "has vllm 0.30.0, and the tests run with 0.29.0"),
        ({"torch": "2.13.0+cpu"}, "has torch 2.13.0+cpu, a build that no ordinary index has"),
        ({"nvidia-cuda-runtime": None}, "has no CUDA: its torch is a build for CPUs"),
    ],
)
def test_a_lock_with_builds_for_cpus_is_found(
    change: dict[str, str | None], problem: str | None
) -> None:
    """Without asking anybody, from the text alone."""
    locked = {name: version for name, version in {**GOOD, **change}.items() if version}
    text = pins.render_summed_lock(locked, dict.fromkeys(locked, ("0" * 64,)))
    assert pins.parse_lock(text) == locked
    assert list(check_gpu(text, "0.29.0")) == ([problem] if problem else [])


@pytest.mark.parametrize("line", ["--extra-index-url https://example.org", "torch==2.13.0"])
def test_a_lock_holds_pins_with_sums_and_nothing_else(line: str) -> None:
    """No option that leads pip elsewhere, and no pin that any file could satisfy."""
    text = pins.render_summed_lock(GOOD, dict.fromkeys(GOOD, ("0" * 64,))) + line + "\n"
    assert [problem for problem in check_gpu(text, "0.29.0") if line in problem]


def test_sums_are_taken_from_wheels_and_addresses_left_out() -> None:
    """uv's lock says where each wheel lies; ours says only what it must be."""
    text = (
        render_pylock({"av": "18.1.0"})
        + 'wheels = [{ url = "https://example.org/av-18.1.0.whl", hashes = { sha256 = "ab" } }]\n'
    )
    assert read_pylock(text) == ({"av": "18.1.0"}, {"av": {"ab"}})


FAKE_UV = """#!{python}
import sys
output = sys.argv[sys.argv.index("--output-file") + 1]
platform = sys.argv[sys.argv.index("--python-platform") + 1]
kept = open(output).read()
assert 'name = "av"' in kept, kept
version = "18.2.0" if platform.startswith("{newer_on}") else "18.1.0"
wheel = '{{ url = "https://example.org/w", hashes = {{ sha256 = "' + platform[:7] + '" }} }}'
header = 'lock-version = "1.0"\\n[[packages]]\\nname = "av"\\nversion = "' + version + '"\\n'
open(output, "w").write(header + "wheels = [" + wheel + "]\\n")
"""


def fake_uv(folder: Path, newer_on: str) -> Path:
    """A uv that knows one package, and a newer version of it on one platform."""
    path = folder / "uv"
    path.write_text(FAKE_UV.format(python=sys.executable, newer_on=newer_on))
    path.chmod(0o755)
    return path


def test_one_lock_has_the_sums_of_every_platform(tmp_path: Path) -> None:
    """The versions agree, and the wheels of all of them may be installed."""
    resolver = GpuResolver(tmp_path, fake_uv(tmp_path, newer_on="nowhere"))
    locked, sums = resolver.resolve({"av": "18.1.0"})
    assert locked == {"av": "18.1.0"}
    assert sums == {"av": {"x86_64-", "aarch64"}}


def test_a_platform_that_needs_another_version_is_an_error(tmp_path: Path) -> None:
    """One lock cannot hold for both; the message names the package."""
    resolver = GpuResolver(tmp_path, fake_uv(tmp_path, newer_on="aarch64"))
    with pytest.raises(SystemExit, match="aarch64-manylinux_2_34 needs other av"):
        resolver.resolve({"av": "18.1.0"})
