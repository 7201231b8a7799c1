"""What `nvidia-smi` says, against the tiers."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from serve_app.config.tiers import TierConfig
from serve_app.offline.doctor.gpus import check_gpus

FAST = TierConfig(name="fast", model_id="m")
STRONG = TierConfig(name="strong", model_id="n", engine={"tensor_parallel_size": 4})
CPU = TierConfig(name="fast", model_id="m", accelerator="cpu")

IDLE = "{}, NVIDIA H100 80GB HBM3, 81559, 4, 580.65.06, Not Active"
NVLINK = "        GPU0    GPU1\nGPU0     X      NV18\nGPU1    NV18     X\n"
PCIE = NVLINK.replace("NV18", "PHB ")


def said(
    tiers: Sequence[TierConfig], cards: Sequence[str] | None, topology: str | None = NVLINK
) -> str:
    """Everything that is found, with these lines of nvidia-smi; None: it is not there."""

    def run(arguments: Sequence[str]) -> str | None:
        if cards is None:
            return None
        return topology if arguments[0] == "topo" else "\n".join(cards)

    return "\n".join(f"{found.level}: {found.what}" for found in check_gpus(tiers, run))


def cards(count: int) -> list[str]:
    return [IDLE.format(index) for index in range(count)]


def test_good_cards() -> None:
    """Their number, name, driver and links."""
    text = said([FAST, STRONG], cards(8))
    assert text == "ok: 8 x NVIDIA H100 80GB HBM3, driver 580.65.06\nok: NVLink"


@pytest.mark.parametrize(
    ("tiers", "lines", "topology", "words"),
    [
        ([FAST], None, NVLINK, "warning: nvidia-smi is not there"),
        ([CPU], None, NVLINK, "note: none here, and no tier wants one"),
        ([STRONG], cards(2), NVLINK, "warning: strong has tensor_parallel_size 4, and this node 2"),
        ([STRONG], cards(4), PCIE, "warning: no NVLink"),
        ([STRONG], cards(4), None, "note: nvidia-smi topo -m fails"),
        ([FAST], [IDLE.format(0).replace(" 4,", " 70000,")], NVLINK, "warning: GPU 0 has 68.4 of"),
        ([FAST], [IDLE.format(0).replace("Not A", "A")], NVLINK, "GPU 0 is slowed down"),
        ([FAST], [], NVLINK, "note: the driver knows none"),
    ],
)
def test_what_is_wrong_with_them(
    tiers: list[TierConfig], lines: list[str] | None, topology: str | None, words: str
) -> None:
    """Too few, in use, slow, badly linked, or not there."""
    assert words in said(tiers, lines, topology)
