"""GPUs: their memory, their rates of reading and computing, and the rates of their links."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from serve_app.offline.planning.planning_errors import PlanningFailed
from serve_app.offline.planning.quantization import Compute

TABLE = Path(__file__).with_name("cards.toml")
GENERATIONS = Path(__file__).with_name("generations.toml")
GIB = 1024**3
PCIE_GB_S = 32.0
"""The rate of PCIe 4.0 x16 in one direction, for GPUs without NVLink between them."""
REQUIRED = ("memory_gib", "bandwidth_gb_s", "bf16_tflops")


@dataclass(frozen=True)
class Generation:
    """The rates that decoding reaches on GPUs of one generation, and their source."""

    bandwidth_reached: float
    """The share of the memory's peak rate."""
    layer_us: float
    """Microseconds per layer of a decoding step apart from reading: kernel launches, small
    kernels."""
    source: str
    newer: str = ""
    """A newer row, to which no constant was fitted."""


@dataclass(frozen=True)
class Card:
    """One GPU. Rates are peaks; `generation` and `roofline` hold the reached share of them."""

    name: str
    memory_gib: float
    bandwidth_gb_s: float
    bf16_tflops: float
    fp8_tflops: float = 0.0
    """0: the card does not compute in FP8, and vLLM unpacks such weights to 16 bit."""
    int8_tops: float = 0.0
    """0: the rate is not known, and the 16-bit rate is used."""
    peer_gb_s: float = 32.0
    """The rate to another GPU of the node, in one direction."""
    nvlink_gpus: float = 72.0
    """The most GPUs that NVLink joins, if the card has NVLink at all."""
    layer_us: float = 0.0
    """0: the value of the generation."""
    link: str = "PCIe 4.0 x16"
    generation: str = "unknown"
    form: str = ""
    """The build of the card to which the numbers apply."""
    ray: str = ""
    """Ray's name of the card; empty for a card that the command line describes."""
    takes_ray: bool = True
    """Whether ray.serve.llm accepts Ray's name unchanged as `accelerator_type`."""
    nvidia_smi: tuple[str, ...] = ()
    source: str = "given"
    memory_source: str = "given"
    layer_source: str = ""

    @property
    def memory_bytes(self) -> float:
        """The memory that a program can use."""
        return self.memory_gib * GIB

    @property
    def full_name(self) -> str:
        """The name, with the build if the table has one."""
        return f"{self.name} ({self.form})" if self.form else self.name

    @property
    def layer_s(self) -> float:
        """Seconds per layer of a decoding step apart from reading."""
        return (self.layer_us or self._reached.layer_us) * 1e-6

    @property
    def bytes_per_s(self) -> float:
        """The rate at which decoding reads weights, keys and values."""
        return self.bandwidth_gb_s * 1e9 * self._reached.bandwidth_reached

    @property
    def _reached(self) -> Generation:
        return read_generations()[self.generation]

    def has_nvlink(self, gpus: int) -> bool:
        """Whether this many GPUs of a node communicate without PCIe."""
        return self.link.startswith("NVLink") and gpus <= self.nvlink_gpus

    def peer_bytes_per_s(self, gpus: int) -> float:
        """The rate between two of this many GPUs that work together."""
        beyond = self.link.startswith("NVLink") and not self.has_nvlink(gpus)
        return (min(self.peer_gb_s, PCIE_GB_S) if beyond else self.peer_gb_s) * 1e9

    def peak_flop_s(self, compute: Compute) -> float:
        """Operations per second in the fastest type that the card has for these weights."""
        tflops = {"bf16": 0.0, "fp8": self.fp8_tflops, "int8": self.int8_tops}[compute]
        return (tflops or self.bf16_tflops) * 1e12


_NUMBERS = tuple(field.name for field in fields(Card) if field.type == "float")


@cache
def read_generations() -> dict[str, Generation]:
    """The shipped constants by the name of the generation."""
    table = tomllib.loads(GENERATIONS.read_text(encoding="utf-8"))
    return {name: Generation(**row) for name, row in table.items()}


@cache
def read_card_table() -> dict[str, Card]:
    """The shipped cards by their names in `plan`; `ray` of each is Ray's name."""
    table = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    return {name: _build(name, row) for name, row in table.items()}


def parse_card(text: str) -> Card:
    """A card by its name, or described: `mine,memory_gib=94,bandwidth_gb_s=3900,bf16_tflops=800`.

    Numbers after a known name replace that card's.

    Raises:
        PlanningFailed: names the missing or wrong value.
    """
    name, *settings = (part.strip() for part in text.split(","))
    numbers = dict(_parse_number(setting) for setting in settings)
    known = {card.upper(): card for card in read_card_table()}
    if name.upper() in known:
        card = read_card_table()[known[name.upper()]]
        source = f"{card.source}; changed: {', '.join(numbers)}" if numbers else card.source
        return Card(**{**asdict(card), **numbers, "source": source})
    if not numbers:
        raise PlanningFailed(_unknown(name))
    missing = [key for key in REQUIRED if key not in numbers]
    if missing or not name:
        raise PlanningFailed(f"card '{text}': {' and '.join(missing) or 'a name'} missing")
    return _build(name, numbers)


def find_ray_cards(accelerator_type: str) -> list[Card]:
    """The shipped cards with this name in Ray, the smallest memory first."""
    found = [card for card in read_card_table().values() if card.ray == accelerator_type]
    return sorted(found, key=lambda card: card.memory_gib)


def _build(name: str, row: Mapping[str, Any]) -> Card:
    names = tuple(row.get("nvidia_smi", ()))
    return Card(name=name, **{**row, "nvidia_smi": names})


def _parse_number(setting: str) -> tuple[str, float]:
    key, equals, value = setting.partition("=")
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if key not in _NUMBERS or not equals or not 0 < number < 1e9:
        raise PlanningFailed(
            f"card: '{setting}' is not a KEY=NUMBER above 0; keys are {', '.join(_NUMBERS)}"
        )
    return key, number


def _unknown(name: str) -> str:
    names = read_card_table()
    alike = [card for card in names if name and card.upper().startswith(name.upper())]
    if alike:
        return f"card '{name}' is ambiguous: {' or '.join(alike)}; choose one with --card"
    return (
        f"card '{name}' is not known; known are {', '.join(names)}. Or describe the card: "
        "--card NAME,memory_gib=...,bandwidth_gb_s=...,bf16_tflops=..."
    )
