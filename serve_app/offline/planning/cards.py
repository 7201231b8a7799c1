"""GPUs: what they hold, how fast they read and compute, and how fast they talk to each other."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from serve_app.offline.planning.errors import PlanningFailed
from serve_app.offline.planning.quantization import Compute

TABLE = Path(__file__).with_name("cards.toml")
GIB = 1024**3
REQUIRED = ("memory_gib", "bandwidth_gb_s", "bf16_tflops")


@dataclass(frozen=True)
class Card:
    """One GPU. Rates are peaks; `roofline` says what of them is reached."""

    name: str
    memory_gib: float
    bandwidth_gb_s: float
    bf16_tflops: float
    fp8_tflops: float = 0.0
    """0: the card does not compute in FP8, and vLLM unpacks such weights to 16 bit."""
    int8_tops: float = 0.0
    peer_gb_s: float = 32.0
    """To another GPU of the node, one direction."""
    link: str = "PCIe 4.0 x16"
    source: str = "given"
    memory_source: str = "given"

    @property
    def memory_bytes(self) -> float:
        """What a program can have of it."""
        return self.memory_gib * GIB

    @property
    def has_nvlink(self) -> bool:
        """Whether GPUs of a node talk past PCIe."""
        return self.link.startswith("NVLink")

    def peak_flop_s(self, compute: Compute) -> float:
        """Operations a second in the fastest type that the card has for these weights."""
        tflops = {"bf16": 0.0, "fp8": self.fp8_tflops, "int8": self.int8_tops}[compute]
        return (tflops or self.bf16_tflops) * 1e12


_NUMBERS = tuple(field.name for field in fields(Card) if field.type == "float")


@cache
def load_cards() -> dict[str, Card]:
    """The shipped cards by their names, which are Ray's where Ray has one."""
    table = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    return {name: _build(name, row) for name, row in table.items()}


def parse_card(text: str) -> Card:
    """A card by its name, or described: `mine,memory_gib=94,bandwidth_gb_s=3900,bf16_tflops=800`.

    Numbers after a known name replace that card's.

    Raises:
        PlanningFailed: says what is missing or wrong.
    """
    name, *settings = (part.strip() for part in text.split(","))
    numbers = dict(_parse_number(setting) for setting in settings)
    known = {card.upper(): card for card in load_cards()}
    if name.upper() in known:
        card = load_cards()[known[name.upper()]]
        source = f"{card.source}; changed: {', '.join(numbers)}" if numbers else card.source
        return Card(**{**asdict(card), **numbers, "source": source})
    if not numbers:
        raise PlanningFailed(_unknown(name))
    missing = [key for key in REQUIRED if key not in numbers]
    if missing or not name:
        raise PlanningFailed(f"card '{text}': {' and '.join(missing) or 'a name'} missing")
    return _build(name, numbers)


def _build(name: str, row: Mapping[str, Any]) -> Card:
    return Card(name=name, **row)


def _parse_number(setting: str) -> tuple[str, float]:
    key, equals, value = setting.partition("=")
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if key not in _NUMBERS or not equals or not 0 < number < 1e9:
        raise PlanningFailed(
            f"card: '{setting}' is no KEY=NUMBER above 0; keys are {', '.join(_NUMBERS)}"
        )
    return key, number


def _unknown(name: str) -> str:
    names = load_cards()
    alike = [card for card in names if name and card.upper().startswith(name.upper())]
    if alike:
        return f"card '{name}' may be {' or '.join(alike)}; say which with --card"
    return (
        f"card '{name}' is not known; known are {', '.join(names)}, or describe it: "
        "--card NAME,memory_gib=...,bandwidth_gb_s=...,bf16_tflops=..."
    )
