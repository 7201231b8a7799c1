"""Tiers and cards for the tests of planning."""

from __future__ import annotations

from typing import Any

from serve_app.config.tiers import TierConfig
from serve_app.offline.planning.cards import Card, read_card_table
from serve_app.offline.planning.engine import Engine, read_engine
from serve_app.offline.planning.memory import Memory, measure
from serve_app.offline.planning.models import ModelFacts, find_model
from serve_app.offline.planning.quantization import SCHEMES, pad


def tier(model: str = "Qwen/Qwen2.5-7B-Instruct", **fields: Any) -> TierConfig:
    """A tier of nodes that are large enough for anything."""
    given = {"name": "fast", "model_id": model, "accelerator_type": "H100", **fields}
    return TierConfig.model_validate({"placement": {"gpus_per_node": 1024}, **given})


def facts(model: str) -> ModelFacts:
    found = find_model(model)
    assert found is not None
    return found[0]


def engine(card: Card | str = "H100", **arguments: Any) -> Engine:
    card = read_card_table()[card] if isinstance(card, str) else card
    return read_engine(tier(engine=arguments), card)


def fill(model: str, scheme: str = "bf16", card: Card | str = "H100", **arguments: Any) -> Memory:
    card = read_card_table()[card] if isinstance(card, str) else card
    padded = pad(facts(model), SCHEMES[scheme])
    return measure(padded, SCHEMES[scheme], engine(card, **arguments), card)
