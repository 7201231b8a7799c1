"""Checking a tier's `engine` keys against the pinned vLLM, before anything starts."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping

from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.cli_args import FrontendArgs

OURS = {
    "model": "tiers[].model_source",
    "served_model_name": "tiers[].model_id",
    "distributed_executor_backend": "tiers[].accelerator",
    "host": "nothing: the engine listens on its node's address, to lease holders only",
    "port": "nothing: the engine listens on a free port",
    "api_key": "nothing: the engine answers lease holders only",
}
"""Engine arguments that the application sets itself, and the key that takes their place."""


def known_engine_args() -> frozenset[str]:
    """Every argument that the pinned vLLM's engine and server take."""
    fields = (*dataclasses.fields(AsyncEngineArgs), *dataclasses.fields(FrontendArgs))
    return frozenset(field.name for field in fields)


def check_engine_args(tier: str, engine: Mapping[str, object]) -> None:
    """Check the names of a tier's engine arguments.

    Raises:
        ValueError: names the key, and what to write instead.
    """
    known = known_engine_args()
    for key in engine:
        if key in OURS:
            raise ValueError(f"tiers.{tier}.engine.{key}: set here by us; use {OURS[key]}")
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise ValueError(f"tiers.{tier}.engine.{key}: not an argument of this vLLM{hint}")
