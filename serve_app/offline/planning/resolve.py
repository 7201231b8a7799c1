"""Find the model that a tier's config serves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve_app import demo
from serve_app.config.tiers import DEMO_PREFIX, TierConfig
from serve_app.offline.planning.models import ModelFacts, find_model, list_models, read_model
from serve_app.offline.planning.planning_errors import PlanningFailed


@dataclass(frozen=True)
class Resolved:
    """A model, and the quantisation that its checkpoint states."""

    facts: ModelFacts
    suffix: str | None
    stated: Mapping[str, Any]


def resolve_model(tier: TierConfig) -> Resolved:
    """The demo model, a directory's config.json, or the table's entry for source or model id.

    Raises:
        PlanningFailed: the model is in none of them.
    """
    source = tier.source
    if source.startswith(DEMO_PREFIX):
        try:
            source = str(demo.locate(source.removeprefix(DEMO_PREFIX)))
        except demo.CheckpointMissing as missing:
            raise PlanningFailed(f"tiers.{tier.name}.model_source: {missing}") from None
    check_directory(tier)
    if (Path(source) / "config.json").is_file():
        facts, stated = read_model(Path(source))
        return Resolved(facts, None, stated)
    for name in (source, tier.model_id):
        found = find_model(name)
        if found is not None:
            return Resolved(*found, {})
    raise PlanningFailed(
        f"tiers.{tier.name}: the facts of '{source}' are not known here. Run the command where the "
        "model is a directory with a config.json (the plan reads no other file), or take a shipped "
        "model: " + ", ".join(list_models())
    )


def check_directory(tier: TierConfig) -> None:
    """Check that a model's directory, if it is on this machine, has a config.json.

    Raises:
        PlanningFailed: it has no config.json, so no engine could load it.
    """
    directory = Path(tier.source)
    if directory.is_dir() and not (directory / "config.json").is_file():
        raise PlanningFailed(
            f"tiers.{tier.name}.model_source: the directory {directory} has no config.json, and no "
            "engine can load a model without it; copy all of the model's files there, or fix the "
            "path"
        )
