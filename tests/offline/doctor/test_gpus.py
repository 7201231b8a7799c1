"""What `nvidia-smi` says, against the tiers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from serve_app.config.tiers import TierConfig
from serve_app.offline.doctor.cards import Card, read_cards
from serve_app.offline.doctor.gpus import check_gpus
from serve_app.offline.doctor.links import read_links
from tests.offline.doctor.smi import BRIDGES, NVLINK, PCIE, FakeSmi, h100s

FAST = TierConfig(name="fast", model_id="m")
STRONG = TierConfig(name="strong", model_id="n", engine={"tensor_parallel_size": 4})
PAIR = TierConfig(name="pair", model_id="n", engine={"tensor_parallel_size": 2})
NAMED = TierConfig(name="fast", model_id="m", accelerator_type="H100")
OTHER = TierConfig(name="fast", model_id="m", accelerator_type="A100")
CPU = TierConfig(name="fast", model_id="m", accelerator="cpu")


def said(
    tiers: Sequence[TierConfig], smi: FakeSmi, environment: Mapping[str, str] | None = None
) -> str:
    """Everything that is found with this driver."""
    findings = list(check_gpus(tiers, read_cards(smi), environment or {}, smi))
    assert [
        found for found in findings if found.level in ("warning", "error") and not found.mend
    ] == []
    return "\n".join(f"{found.level}: {found.what}" for found in findings)


def test_good_cards() -> None:
    """Their number, name, driver and links."""
    assert said([NAMED, STRONG], FakeSmi(h100s(4))) == (
        "ok: 4 x NVIDIA H100 80GB HBM3, driver 580.65.06\nok: strong: NV18 within every group of 4"
    )


@pytest.mark.parametrize(
    ("tiers", "smi", "words"),
    [
        ([FAST], FakeSmi(missing=True), "warning: nvidia-smi is missing"),
        ([CPU], FakeSmi(missing=True), "note: none here, and no tier needs a GPU"),
        ([STRONG], FakeSmi(h100s(2)), "strong has tensor_parallel_size 4, but this node has 2"),
        ([STRONG], FakeSmi(h100s(4), None), "note: nvidia-smi topo -m does not report"),
        ([FAST], FakeSmi(h100s(1, memory__used="70000")), "warning: GPU 0 has 68.4 of"),
        (
            [FAST],
            FakeSmi(h100s(1, clocks_event_reasons__hw_slowdown="Active")),
            "warning: GPU 0 is slowed down",
        ),
        ([FAST], FakeSmi([]), "note: the driver reports none"),
        ([OTHER], FakeSmi(h100s(1)), "warning: fast needs accelerator_type A100, but Ray names"),
        ([FAST], FakeSmi(h100s(1, mig__mode__current="Enabled")), "error: MIG mode is on: GPU 0"),
        ([FAST], FakeSmi(h100s(1, driver_version="570.133.20")), "570.133.20 is older than 580.65"),
        (
            [FAST],
            FakeSmi([*h100s(1), *h100s(1, name="NVIDIA L40S")]),
            "warning: this node has several kinds of cards: H100, L40S",
        ),
    ],
)
def test_what_is_wrong_with_them(tiers: list[TierConfig], smi: FakeSmi, words: str) -> None:
    """Too few, in use, badly named, split, under an old driver, or not there."""
    assert words in said(tiers, smi)


@pytest.mark.parametrize(
    ("driver", "level"),
    [
        ("580.65.06", None),
        ("580.95.05", None),
        ("595.10", None),
        ("580.40.01", "error"),
        ("575.57.08", "error"),
        ("535.274.02", "error"),
    ],
)
def test_cuda_13_needs_a_driver_of_r580(driver: str, level: str | None) -> None:
    """Later branches run it too, earlier ones do not."""
    text = said([FAST], FakeSmi(h100s(1, driver_version=driver)))
    assert (f"{level}: {driver} is older" in text) == (level is not None)
    assert ("is older" in text) == (level is not None)


def test_a_forward_compatibility_package_makes_it_a_warning(tmp_path: Path) -> None:
    """It is found by LD_LIBRARY_PATH; the installed driver's own library is none."""
    smi = FakeSmi(h100s(1, driver_version="570.133.20"))
    for name, level in (("lib64", "error"), ("compat", "warning")):
        library = tmp_path / name / "libcuda.so.1"
        library.parent.mkdir()
        library.touch()
        text = said([FAST], smi, {"LD_LIBRARY_PATH": f"/nowhere:{library.parent}"})
        assert f"{level}: 570.133.20 is older than 580.65.06" in text
        assert (f", and {library} precedes it" in text) == (level == "warning")


def test_a_cpu_config_asks_nothing_of_the_cards() -> None:
    """Neither their driver nor MIG nor their names matter to it."""
    smi = FakeSmi(h100s(1, driver_version="470.82.01", mig__mode__current="Enabled"))
    assert said([CPU], smi) == "ok: 1 x NVIDIA H100 80GB HBM3, driver 470.82.01"


@pytest.mark.parametrize(
    ("topology", "tier", "words"),
    [
        (NVLINK, STRONG, "ok: strong: NV18 within every group of 4"),
        (PCIE, STRONG, "warning: strong: no NVLink between 6 of 6 pairs within groups of 4"),
        (PCIE, PAIR, "within groups of 2: GPU 0 and GPU 1 have PHB"),
        (BRIDGES, PAIR, "ok: pair: NV12 within every group of 2"),
        (BRIDGES, STRONG, "no NVLink between 4 of 6 pairs within groups of 4: GPU 0 and GPU 2"),
    ],
)
def test_the_links_of_a_tensor_parallel_group(topology: str, tier: TierConfig, words: str) -> None:
    """Every pair within a group counts, and no pair beyond it."""
    assert words in said([tier], FakeSmi(h100s(4), topology))


def test_a_matrix_without_gpus_is_no_matrix() -> None:
    """An unknown format says nothing of links, rather than that there are none."""
    assert read_links("Failed to initialize NVML") == {}
    assert read_links(NVLINK)[0, 3] == "NV18"


def test_an_old_driver_knows_fewer_fields() -> None:
    """What it does not know is left out; a field's older name is tried too."""
    old = dict.fromkeys(("memory.total", "memory.used"), "4")
    smi = FakeSmi([{"name": "Tesla T4", "driver_version": "470.82.01", **old}])
    [card] = read_cards(smi) or []
    assert (card.capability, card.mig, card.slowed) == (None, False, False)
    smi.cards[0]["clocks_throttle_reasons.hw_slowdown"] = "Active"
    [card] = read_cards(smi) or []
    assert card.slowed


def test_what_the_driver_does_not_say_is_no_number() -> None:
    """Cards whose memory is the machine's report none of it."""
    [card] = read_cards(FakeSmi(h100s(1, memory__used="[N/A]", compute_cap="[N/A]"))) or []
    assert (card.used_mib, card.capability) == (None, None)
    assert "in use" not in said([FAST], FakeSmi(h100s(1, memory__used="[N/A]")))


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA H100 80GB HBM3",
        "NVIDIA H100 NVL",
        "NVIDIA H200",
        "NVIDIA A100-SXM4-80GB",
        "NVIDIA A10G",
        "NVIDIA L40S",
        "NVIDIA GH200 480GB",
        "NVIDIA B200",
        "NVIDIA RTX PRO 6000 Blackwell Server Edition",
        "NVIDIA GeForce RTX 5090",
        "Tesla V100-SXM2-16GB",
        "Tesla T4",
    ],
)
def test_cards_have_the_names_that_ray_gives_them(name: str) -> None:
    """The rule is Ray's own."""
    manager = pytest.importorskip("ray._private.accelerators.nvidia_gpu")
    wanted = manager.NvidiaGPUAcceleratorManager._gpu_name_to_accelerator_type(name)
    assert Card(0, name, "580.65.06", None, None).ray_name == wanted
