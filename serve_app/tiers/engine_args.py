"""Checking a tier's `engine` arguments against the pinned vLLM, before anything starts."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
from collections.abc import Iterator, Mapping
from typing import NoReturn

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
    """Check that a tier's engine arguments exist, and that vLLM's own parser takes the values.

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
    parser = _Parser(add_help=False, exit_on_error=False)
    AsyncEngineArgs.add_cli_args(parser)
    FrontendArgs.add_cli_args(parser)
    for key, value in engine.items():
        try:
            parser.parse_args(list(_words(key, value)))
        except argparse.ArgumentError as error:
            raise ValueError(f"tiers.{tier}.engine.{key}: {error.message}") from None


class _Parser(argparse.ArgumentParser):
    """vLLM's options on Python's own parser; vLLM's parser would exit the process on an error."""

    def error(self, message: str) -> NoReturn:
        raise argparse.ArgumentError(None, message)


def _words(key: str, value: object) -> Iterator[str]:
    """The argument as on vLLM's command line."""
    option = key.replace("_", "-")
    if isinstance(value, bool):
        yield f"--{option}" if value else f"--no-{option}"
        return
    yield f"--{option}"
    if isinstance(value, dict):
        yield json.dumps(value)
    elif isinstance(value, list):
        yield from map(str, value)
    else:
        yield str(value)
