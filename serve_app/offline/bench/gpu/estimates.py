"""The estimates of `plan` for a tier, one by one, for the comparison with measurements."""

from __future__ import annotations

from dataclasses import dataclass

import psutil

from serve_app.config.tiers import TierConfig
from serve_app.offline.bench.gpu.rates import Rates
from serve_app.offline.planning.cards import GIB, Card, parse_card, read_card_table
from serve_app.offline.planning.engine import Engine, read_engine
from serve_app.offline.planning.memory import Memory, measure, split_layers, weigh
from serve_app.offline.planning.models import ModelFacts
from serve_app.offline.planning.quantization import Scheme, choose_scheme, pad
from serve_app.offline.planning.resolve import resolve_model
from serve_app.offline.planning.roofline import Roofline

_CONTEXTS = (1e6, 2e6)
"""Tokens; so many that reading them is what a step takes its time for."""


@dataclass(frozen=True)
class Estimate:
    """One tier on one card; a CPU has a card only if its rates were measured."""

    facts: ModelFacts
    scheme: Scheme
    engine: Engine
    memory: Memory
    card: Card | None

    @property
    def resident_gib(self) -> float:
        """The memory of the card that the engine takes."""
        memory = self.memory
        fixed = memory.weights_bytes + memory.activation_bytes + memory.overhead_bytes
        return (fixed + memory.kv_bytes) / GIB

    @property
    def read_bytes(self) -> float:
        """Weights that a decoding step of a dense model reads."""
        [stage] = split_layers(self.facts.layers, 1)
        weights = weigh(self.facts, self.engine.parallel, stage)
        size = self.engine.element_bytes
        return weights.bytes(self.scheme, size) - (weights.plain - weights.read_plain) * size

    def step_ms(self, batch: int, prompt_tokens: int, output_tokens: int) -> float | None:
        """Time from one token to the next with this many streams, in the middle of their
        answers."""
        if self.card is None:
            return None
        return 1000 * self._roofline(self.card).step_s(batch, prompt_tokens + output_tokens / 2)

    def prefill_ms(self, prompt_tokens: int) -> float | None:
        """Time to read a prompt."""
        return (
            None if self.card is None else 1000 * self._roofline(self.card).prefill_s(prompt_tokens)
        )

    @property
    def bytes_per_s(self) -> float | None:
        """The memory rate that the plan counts with, from the extra time of a step with more
        cache."""
        if self.card is None:
            return None
        a_token = self.memory.kv_bytes_a_token
        near, far = (self._step_s(self.card, tokens) for tokens in _CONTEXTS)
        return (_CONTEXTS[1] - _CONTEXTS[0]) * a_token / (far - near)

    @property
    def layer_us(self) -> float | None:
        """The plan's time for a layer of a step apart from reading."""
        if self.card is None or self.bytes_per_s is None:
            return None
        a_token = self.memory.kv_bytes_a_token
        read_s = (self.read_bytes + _CONTEXTS[0] * a_token) / self.bytes_per_s
        return 1e6 * (self._step_s(self.card, _CONTEXTS[0]) - read_s) / self.facts.layers

    def _step_s(self, card: Card, context_tokens: float) -> float:
        return self._roofline(card).step_s(1, context_tokens)

    def _roofline(self, card: Card) -> Roofline:
        return Roofline(self.facts, self.scheme, self.engine, card)


def estimate(tier: TierConfig, card: Card | None, rates: Rates | None) -> Estimate:
    """Plan one tier; on a CPU the speeds come from the rates that were measured.

    Raises:
        PlanningFailed: the model or its quantisation is not known.
    """
    resolved = resolve_model(tier)
    engine = read_engine(tier, card)
    scheme = choose_scheme(engine.quantization, resolved.suffix, resolved.stated)
    facts = pad(resolved.facts, scheme)
    speeds = card or (None if rates is None else build_cpu(rates))
    return Estimate(facts, scheme, engine, measure(facts, scheme, engine, card), speeds)


def build_cpu(rates: Rates) -> Card:
    """This machine, described as a card."""
    return Card(
        name="CPU",
        memory_gib=psutil.virtual_memory().total / GIB,
        bandwidth_gb_s=rates.read_gb_s,
        bf16_tflops=rates.bf16_tflops,
        source="measured",
    )


def find_card(tier: TierConfig, device: str) -> Card | None:
    """The data sheet of the tier's card, or else of the card that the driver names."""
    if tier.accelerator_type is not None:
        return parse_card(tier.accelerator_type)
    words = device.upper().replace("-", " ").split()
    named = [name for name in read_card_table() if name.upper() in words]
    return parse_card(max(named, key=len)) if named else None
