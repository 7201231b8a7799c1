"""What an engine compiles on these cards, and whether the machine can."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from serve_app.config.environment import ray_environment
from serve_app.config.tiers import TierConfig
from serve_app.offline.doctor.cards import Card
from serve_app.offline.doctor.compilers import SAMPLER, Toolbox, check_compilers

NO_SAMPLER = {SAMPLER: "0"}


class Machine:
    """A machine with these commands, and with Python's headers."""

    def __init__(self, path: Path, commands: str) -> None:
        self.path = path
        self.bin = path / "bin"
        self.write("include/Python.h")
        for command in commands.split():
            self.write(f"bin/{command}")

    def write(self, name: str) -> Path:
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o755)
        return file

    def box(self, *, prebuilt: bool = False) -> Toolbox:
        path = self.path
        return Toolbox(str(self.bin), path / "include", path / "lib", path / "cuda", prebuilt)


def card(capability: tuple[int, int] | None) -> Card:
    return Card(0, "NVIDIA H100 80GB HBM3", "580.65.06", 81559, 4, capability)


def said(
    box: Toolbox,
    environment: dict[str, str],
    capability: tuple[int, int] | None = (9, 0),
    **fields: Any,
) -> str:
    """Everything that is found of one tier on one card."""
    tier = TierConfig(name="fast", model_id="m", **fields)
    cards = [card(capability)] if tier.accelerator == "gpu" else []
    found = check_compilers([tier], cards, environment, box)
    return "\n".join(f"{finding.level}: {finding.what} {finding.mend}" for finding in found)


def test_a_compiler_and_headers_are_enough(tmp_path: Path) -> None:
    """Nothing needs nvcc where FlashInfer's sampler is off."""
    box = Machine(tmp_path, "gcc").box()
    assert said(box, NO_SAMPLER) == "ok: this machine has every compiler that the engines need "


def test_triton_needs_a_compiler_and_headers(tmp_path: Path) -> None:
    """Both are errors: the engine dies at its first step."""
    box = Machine(tmp_path, "").box()
    (tmp_path / "include" / "Python.h").unlink()
    text = said(box, NO_SAMPLER)
    assert "error: fast: no gcc apt-get install gcc" in text
    assert f"error: fast: no Python.h in {tmp_path}/include" in text
    assert "CC is icx, which does not exist" in said(box, {**NO_SAMPLER, "CC": "icx"})


@pytest.mark.parametrize(
    ("environment", "capability", "fields", "missed"),
    [
        ({}, (9, 0), {}, True),
        ({SAMPLER: "1"}, (8, 0), {}, True),
        (NO_SAMPLER, (9, 0), {}, False),
        ({}, (7, 5), {}, False),
        ({}, (12, 1), {}, True),
        ({}, None, {}, False),
        ({}, (9, 0), {"env": NO_SAMPLER}, False),
        (NO_SAMPLER, (9, 0), {"env": {SAMPLER: "1"}}, True),
        ({}, (9, 0), {"engine": {"logprobs_mode": "processed_logprobs"}}, False),
        (NO_SAMPLER, (10, 0), {}, True),
        (NO_SAMPLER, (10, 0), {"engine": {"attention_backend": "FLASH_ATTN"}}, False),
        (NO_SAMPLER, (10, 0), {"engine": {"attention_config": {"backend": "triton_attn"}}}, False),
        (NO_SAMPLER, (10, 0), {"engine": {"attention_backend": "FLASHINFER"}}, True),
    ],
)
def test_nvcc_is_needed_for_what_vllm_takes_of_flashinfer(
    tmp_path: Path,
    environment: dict[str, str],
    capability: tuple[int, int] | None,
    fields: dict[str, Any],
    missed: bool,
) -> None:
    """By the card, the environment that the engine will have, and what the tier chooses."""
    box = Machine(tmp_path, "gcc").box()
    text = said(box, environment, capability, **fields)
    assert ("error: fast: no nvcc, no c++, no ninja" in text) == missed
    assert said(Machine(tmp_path, "gcc").box(prebuilt=True), environment, capability, **fields) == (
        "ok: this machine has every compiler that the engines need "
    )


def test_what_is_there_is_used(tmp_path: Path) -> None:
    """nvcc on the path, below CUDA_HOME or in the usual place: FlashInfer looks in this order."""
    machine = Machine(tmp_path, "gcc c++ ninja")
    assert "no nvcc " in said(machine.box(), {})
    nvcc = machine.write("cuda/bin/nvcc")
    assert said(machine.box(), {}).startswith("note: fast: FlashInfer's sampler will be compiled")
    home = {"CUDA_HOME": str(tmp_path / "other")}
    assert "no nvcc " in said(machine.box(), home), "CUDA_HOME wins, even where it is wrong"
    machine.write("other/bin/nvcc")
    assert "no nvcc" not in said(machine.box(), home)
    nvcc.unlink()
    machine.write("bin/nvcc")
    assert "no nvcc" not in said(machine.box(), {})


def test_an_nvcc_that_came_as_a_package_is_named(tmp_path: Path) -> None:
    """It lies in a directory where nothing looks until CUDA_HOME names it."""
    machine = Machine(tmp_path, "gcc c++ ninja")
    machine.write("lib/nvidia/cu13/bin/nvcc")
    assert f"export CUDA_HOME={tmp_path}/lib/nvidia/cu13 before `ray start`" in said(
        machine.box(), {}
    )


def test_a_cpu_engine_compiles_unless_it_is_eager(tmp_path: Path) -> None:
    """torch.compile writes C++ there."""
    box = Machine(tmp_path, "gcc").box()
    assert "error: fast: no g++" in said(box, {}, accelerator="cpu")
    eager = {"engine": {"enforce_eager": True}}
    assert (
        said(box, {}, accelerator="cpu", **eager)
        == "ok: this machine has every compiler that the engines need "
    )
    assert said(Machine(tmp_path, "g++").box(), {}, accelerator="cpu").startswith("ok")


def test_without_cards_nothing_is_said_of_gpus(tmp_path: Path) -> None:
    """The head need not compile for the workers."""
    tier = TierConfig(name="fast", model_id="m")
    [found] = check_compilers([tier], [], ray_environment(), Machine(tmp_path, "").box())
    assert (found.level, "not checked" in found.what) == ("note", True)
