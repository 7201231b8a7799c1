"""Calls that have beginnings in common, or none: conversations, tenants, strangers."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

Message: TypeAlias = dict[str, str]

ANSWER_TOKENS = 16
CONVERSATIONS = 24
TURNS = 8
TENANTS = 12
CALLS_PER_TENANT = 12
STRANGERS = 96
SYSTEM_WORDS = 510
"""About 1,500 tokens of the demo's tokenizer; the report says how many they were."""
TURN_WORDS = 40
STRANGER_WORDS = 400

# fmt: off
_WORDS = (
    "river", "stone", "garden", "window", "market", "bridge", "letter", "winter", "summer",
    "paper", "silver", "number", "answer", "morning", "evening", "station", "mountain", "harbour",
    "engine", "lantern", "orchard", "village", "kitchen", "carpet",
)
# fmt: on


@dataclass(frozen=True, slots=True)
class Thread:
    """One conversation: the system prompt, and the questions that follow each other's answers."""

    name: str
    system: str
    questions: Sequence[str]


@dataclass(frozen=True, slots=True)
class Workload:
    """Conversations, of which so many run at a time. Each asks again as soon as it is answered."""

    name: str
    threads: Sequence[Thread]
    at_a_time: int

    @property
    def calls(self) -> int:
        """All calls."""
        return sum(len(thread.questions) for thread in self.threads)


def build_workloads(seed: int) -> Sequence[Workload]:
    """The three workloads; another seed has other texts, so that no cache knows them."""
    chance = random.Random(seed)  # Not for secrets.
    return [_build_conversations(chance), _build_tenants(chance), _build_strangers(chance)]


def _build_conversations(chance: random.Random) -> Workload:
    threads = [
        Thread(f"c{number}", "", [_text(chance, TURN_WORDS) for _ in range(TURNS)])
        for number in range(CONVERSATIONS)
    ]
    return Workload("conversations", threads, CONVERSATIONS)


def _build_tenants(chance: random.Random) -> Workload:
    """Calls of tenants in a random order; the tenants' system prompts are long."""
    systems = [_text(chance, SYSTEM_WORDS) for _ in range(TENANTS)]
    tenants = [tenant for tenant in range(TENANTS) for _ in range(CALLS_PER_TENANT)]
    chance.shuffle(tenants)
    threads = [
        Thread(f"t{tenant}", systems[tenant], [_text(chance, TURN_WORDS)]) for tenant in tenants
    ]
    return Workload("shared system prompts", threads, TENANTS)


def _build_strangers(chance: random.Random) -> Workload:
    threads = [
        Thread(f"s{number}", "", [_text(chance, STRANGER_WORDS)]) for number in range(STRANGERS)
    ]
    return Workload("no reuse", threads, TENANTS)


def _text(chance: random.Random, words: int) -> str:
    return " ".join(chance.choices(_WORDS, k=words))
