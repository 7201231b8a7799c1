"""Check that this machine has the compilers for the code that an engine compiles at its start."""

from __future__ import annotations

import shutil
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from serve_app.config.tiers import TierConfig
from serve_app.offline.doctor.cards import Card
from serve_app.offline.doctor.finding import CheckResult, Level, note, ok

SAMPLER = "VLLM_USE_FLASHINFER_SAMPLER"
SAMPLER_CAPABILITIES = ((8, 0), (12, 1))
"""The compute capabilities for which vLLM 0.29 uses FlashInfer's sampler, unless the variable is 0.

vLLM checks only the card (`FlashInferBackend.supports_compute_capability`), not whether the sampler
can be compiled.
"""

ATTENTION_MAJOR = 10
"""The major compute capability for which FlashInfer is first among vLLM 0.29's attention backends
(`platforms/cuda.py`).
"""

DEFAULT_CUDA = Path("/usr/local/cuda")


@dataclass(frozen=True)
class Toolbox:
    """The compilers of a machine; a test makes its own."""

    search_path: str | None = None
    """The directories of commands, or None for the directories of this process."""
    include: Path = field(default_factory=lambda: Path(sysconfig.get_paths()["include"]))
    packages: Path = field(default_factory=lambda: Path(sysconfig.get_paths()["purelib"]))
    cuda: Path = DEFAULT_CUDA
    prebuilt: bool = field(default_factory=lambda: find_spec("flashinfer_jit_cache") is not None)
    """Whether FlashInfer's kernels are installed, so that none is compiled."""

    def find(self, *commands: str) -> str | None:
        """The path of the first of these commands that exists."""
        found = (shutil.which(command, path=self.search_path) for command in commands)
        return next((path for path in found if path), None)

    def find_nvcc(self, environment: Mapping[str, str]) -> str | None:
        """CUDA's compiler, searched where FlashInfer searches."""
        if own := environment.get("FLASHINFER_NVCC"):
            return self.find(own)
        home = environment.get("CUDA_HOME") or environment.get("CUDA_PATH")
        if home is None and (on_path := self.find("nvcc")):
            return on_path
        return self.find(str(Path(home or self.cuda) / "bin" / "nvcc"))

    def packaged_cuda(self) -> Path | None:
        """The directory of an nvcc from a Python package, where no program searches by itself."""
        found = sorted(self.packages.glob("nvidia/*/bin/nvcc"))
        return found[-1].parents[1] if found else None


def check_compilers(
    tiers: Sequence[TierConfig],
    cards: Sequence[Card],
    environment: Mapping[str, str],
    toolbox: Toolbox | None = None,
) -> Iterator[CheckResult]:
    """Check that each tier's engine finds its compilers, in the environment that it will have."""
    box = toolbox or Toolbox()
    found: list[CheckResult] = []
    if not cards and any(tier.accelerator == "gpu" for tier in tiers):
        found.append(note("compilers", "not checked for GPUs, because this machine has none"))
    for tier in tiers:
        own = {**environment, **tier.env}
        if tier.accelerator == "gpu" and cards:
            found += [*_check_triton(tier, own, box), *_check_flashinfer(tier, cards, own, box)]
        elif tier.accelerator == "cpu" and tier.engine.get("enforce_eager") is not True:
            found += _check_inductor(tier, own, box)
    yield from found or [ok("compilers", "this machine has every compiler that the engines need")]


def _check_triton(
    tier: TierConfig, environment: Mapping[str, str], box: Toolbox
) -> Iterator[CheckResult]:
    """Triton builds a small C library for its kernels at the first start of an engine."""
    compiler = environment.get("CC")
    if not (box.find(compiler) if compiler else box.find("gcc", "clang")):
        yield CheckResult(
            Level.ERROR,
            "compilers",
            f"{tier.name}: "
            + (f"CC is {compiler}, which does not exist" if compiler else "no gcc"),
            "Triton needs a C compiler for the launchers of its kernels; without it, the engine "
            "dies at its first step.",
            "apt-get install gcc, or set CC in the environment of every Ray process.",
        )
    if not (box.include / "Python.h").exists():
        version = ".".join(map(str, sys.version_info[:2]))
        yield CheckResult(
            Level.ERROR,
            "compilers",
            f"{tier.name}: no Python.h in {box.include}",
            "Triton needs Python's headers for the launchers of its kernels; without them, the "
            "engine dies at its first step.",
            f"apt-get install python{version}-dev, or use a Python that includes its headers.",
        )


def _check_inductor(
    tier: TierConfig, environment: Mapping[str, str], box: Toolbox
) -> Iterator[CheckResult]:
    """On a CPU, torch.compile writes C++."""
    compiler = environment.get("CXX", "g++")
    if box.find(compiler) is None:
        yield CheckResult(
            Level.ERROR,
            "compilers",
            f"{tier.name}: no {compiler}",
            "torch.compile needs the compiler when the engine starts.",
            "apt-get install g++, set CXX to another compiler, or set `enforce_eager: true` in "
            "`engine`.",
        )


def _check_flashinfer(
    tier: TierConfig, cards: Sequence[Card], environment: Mapping[str, str], box: Toolbox
) -> Iterator[CheckResult]:
    parts = list(_list_compiled(tier, cards, environment))
    if not parts or box.prebuilt:
        return
    tools = {
        "nvcc": box.find_nvcc(environment),
        "c++": box.find(environment.get("CXX", "c++")),
        "ninja": box.find("ninja"),
    }
    missing = [name for name, path in tools.items() if path is None]
    if not missing:
        yield note(
            "compilers", f"{tier.name}: {' and '.join(parts)} will be compiled at the first start"
        )
        return
    packaged = box.packaged_cuda()
    yield CheckResult(
        Level.ERROR,
        "compilers",
        f"{tier.name}: no {', no '.join(missing)}",
        f"On these cards vLLM compiles {' and '.join(parts)} when the engine starts, and the "
        "engine dies if it cannot.",
        "; or ".join(_mend(parts, packaged if "nvcc" in missing else None)) + ".",
    )


def _list_compiled(
    tier: TierConfig, cards: Sequence[Card], environment: Mapping[str, str]
) -> Iterator[str]:
    """The parts of FlashInfer that vLLM uses on these cards by default."""
    capabilities = [card.capability for card in cards if card.capability]
    lowest, highest = SAMPLER_CAPABILITIES
    processed = str(tier.engine.get("logprobs_mode", "")).startswith("processed")
    takes = any(lowest <= capability <= highest for capability in capabilities)
    if takes and environment.get(SAMPLER, "1") != "0" and not processed:
        yield "FlashInfer's sampler"
    if any(major == ATTENTION_MAJOR for major, _ in capabilities) and not _names_attention(tier):
        yield "FlashInfer's attention"


def _names_attention(tier: TierConfig) -> bool:
    nested = tier.engine.get("attention_config")
    named = tier.engine.get("attention_backend") or (
        nested.get("backend") if isinstance(nested, dict) else None
    )
    return isinstance(named, str) and not named.upper().startswith(("FLASHINFER", "AUTO"))


def _mend(parts: Sequence[str], packaged: Path | None) -> Iterator[str]:
    if packaged is not None:
        yield f"export CUDA_HOME={packaged} before `ray start`"
    if parts == ["FlashInfer's sampler"]:
        yield f"{SAMPLER}=0, as `serve-app env` sets it"
    yield "install flashinfer-jit-cache of FlashInfer's version"
    yield "install CUDA's toolkit, g++ and ninja"
