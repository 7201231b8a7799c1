"""Fails unless the locks hold what pyproject.toml asks for and nothing that is excluded."""

import sys
from collections.abc import Sequence

import pins
from packaging.requirements import Requirement


def main() -> None:
    project = pins.read_project(pins.ROOT)
    extras = project["optional-dependencies"]
    cpu = pins.read_lock(pins.ROOT, "cpu")
    dev = pins.read_lock(pins.ROOT, "dev")
    problems = [
        *check("requirements/cpu.txt", cpu, [*project["dependencies"], *extras["cpu"]]),
        *check("requirements/dev.txt", {**cpu, **dev}, extras["dev"]),
        *(f"requirements/dev.txt repeats {name} of cpu.txt" for name in sorted(cpu.keys() & dev)),
    ]
    if problems:
        sys.exit("\n".join([*problems, "Mend it with: make lock"]))


def check(lock: str, present: pins.Pins, requirements: Sequence[str]) -> list[str]:
    """What is wrong with a lock, one line each."""
    problems = [f"{lock} must not hold {name}" for name in sorted(pins.EXCLUDED & present.keys())]
    for requirement in map(Requirement, requirements):
        version = present.get(pins.canonical(requirement.name))
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            problems.append(f"{lock} has {version or 'nothing'} for {requirement}")
    return problems


if __name__ == "__main__":
    main()
