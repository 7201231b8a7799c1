"""Safetensors files and their index; the safetensors library checks the headers."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from serve_app.model_files.files import read_json_object
from serve_app.model_files.finding import Finding

INDEX_NAME = "model.safetensors.index.json"
_NUMBERED = re.compile(r"model-\d{5}-of-(\d{5})\.safetensors")
_COPY = "copy the model again; the copy is incomplete or mixes two versions"


@dataclass(frozen=True)
class Shard:
    """One safetensors file, described by its header."""

    names: frozenset[str]
    parameters: Counter[str]
    data_bytes: int


def read_shard(path: Path) -> Shard:
    """Read and check a header: its length and JSON, and that the tensors tile the file exactly.

    Raises:
        ValueError: names the error in the header.
    """
    try:
        with safe_open(path, framework="np") as file:
            names = file.keys()
            parameters: Counter[str] = Counter()
            for name in names:
                tensor = file.get_slice(name)
                parameters[tensor.get_dtype()] += math.prod(tensor.get_shape())
    except (SafetensorError, OSError) as error:
        raise ValueError(str(error)) from None
    with path.open("rb") as raw:
        header_bytes = 8 + int.from_bytes(raw.read(8), "little")
    return Shard(frozenset(names), parameters, path.stat().st_size - header_bytes)


def check_weights(
    directory: Path, files: Mapping[str, int]
) -> tuple[dict[str, Shard], list[Finding]]:
    """Check every safetensors file, and that the files that an engine reads form one model."""
    shards: dict[str, Shard] = {}
    findings = []
    for name in files:
        if name.endswith(".safetensors"):
            try:
                shards[name] = read_shard(directory / name)
            except ValueError as error:
                findings.append(Finding(name, f"not a valid safetensors file: {error}", _COPY))
    if not any(name.endswith(".safetensors") and "/" not in name for name in files):
        mend = "give the directory that has config.json and *.safetensors, or use serve-app convert"
        findings.append(Finding(".", "no safetensors file", mend))
    # If files could not be read, a check of the index would only repeat these findings.
    elif not findings:
        findings += _check_index(directory, files, shards)
    return shards, findings


def _check_index(
    directory: Path, files: Mapping[str, int], shards: Mapping[str, Shard]
) -> Iterator[Finding]:
    if INDEX_NAME not in files:
        yield from _check_numbers(shards)
        return
    try:
        index = read_json_object(directory / INDEX_NAME)
        weight_map = _parse_weight_map(index)
    except ValueError as error:
        yield Finding(INDEX_NAME, str(error), _COPY)
        return
    yield from _compare(weight_map, shards)
    metadata = index.get("metadata")
    stated = metadata.get("total_size") if isinstance(metadata, dict) else None
    used = set(weight_map.values())
    actual = sum(shard.data_bytes for name, shard in shards.items() if name in used)
    if stated not in (None, actual) and used <= shards.keys():
        what = f"total_size is {stated}, but the tensors have {actual} bytes"
        mend = "engines ignore the difference; check where the files come from"
        yield Finding(INDEX_NAME, what, mend, fatal=False)


def _check_numbers(shards: Mapping[str, Shard]) -> Iterator[Finding]:
    for name in shards:
        if (match := _NUMBERED.fullmatch(name)) and int(match[1]) > 1:
            yield Finding(INDEX_NAME, f"missing, but {name} is one of {int(match[1])}", _COPY)
            return


def _parse_weight_map(index: Mapping[str, object]) -> dict[str, str]:
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError("no weight_map")
    if not all(isinstance(shard, str) for shard in weight_map.values()):
        raise ValueError("weight_map has values that are not file names")
    return weight_map


def _compare(weight_map: Mapping[str, str], shards: Mapping[str, Shard]) -> Iterator[Finding]:
    promised: dict[str, set[str]] = {}
    for tensor, shard in weight_map.items():
        promised.setdefault(shard, set()).add(tensor)
    for name, tensors in promised.items():
        if name not in shards:
            yield Finding(name, f"missing, but named in {INDEX_NAME}", _COPY)
            continue
        for what, names in (
            (f"lacks tensors of {INDEX_NAME}", tensors - shards[name].names),
            (f"holds tensors that {INDEX_NAME} does not name", shards[name].names - tensors),
        ):
            if names:
                yield Finding(name, f"{what}: {_some(names)}", _COPY)
    for name in shards:
        if name not in promised and "/" not in name:
            what = f"not named in {INDEX_NAME}"
            yield Finding(name, what, "remove the file if no program needs it", fatal=False)


def _some(names: Collection[str]) -> str:
    first = ", ".join(sorted(names)[:3])
    return first if len(names) <= 3 else f"{first} and {len(names) - 3} more"
