"""Safetensors headers and the index: what is wrong is found, and nothing breaks the finder."""

from __future__ import annotations

import contextlib
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from serve_app.model_files.files import list_files
from serve_app.model_files.finding import Finding
from serve_app.offline.checkpoints.tensors import INDEX_NAME, check_weights, read_shard

BYTES = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2, "I8": 1, "BOOL": 1}
# The directory of a function's fixture serves every example: each writes the one file anew.
same_directory = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def write(path: Path, header: object, data: bytes, stated: int | None = None) -> None:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(raw) if stated is None else stated
    path.write_bytes(size.to_bytes(8, "little") + raw + data)


def tensor(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@st.composite
def headers(draw: st.DrawFn) -> tuple[dict[str, Any], int]:
    """Headers that are mostly right: tensors in a row, some of them moved; and a length of data."""
    header, end = {}, 0
    for number in range(draw(st.integers(0, 3))):
        dtype = draw(st.sampled_from([*BYTES, "F33"]))
        shape = draw(st.lists(st.integers(0, 3), max_size=3))
        begin = end + draw(st.sampled_from([0, 0, 0, 1, -1]))
        end = begin + math.prod(shape) * BYTES.get(dtype, 4) + draw(st.sampled_from([0, 0, 0, 1]))
        header[f"t{number}"] = tensor(dtype, shape, begin, end)
    return header, max(0, end + draw(st.sampled_from([0, 0, 0, 1, -1])))


def is_valid(header: dict[str, Any], data_bytes: int) -> bool:
    """The format's rules, told a second time and plainly."""
    end = 0
    for item in sorted(header.values(), key=lambda item: item["data_offsets"]):
        begin, stop = item["data_offsets"]
        if item["dtype"] not in BYTES or begin != end:
            return False
        if stop - begin != math.prod(item["shape"]) * BYTES[item["dtype"]]:
            return False
        end = stop
    return end == data_bytes


@same_directory
@given(headers())
def test_valid_headers_and_no_others_are_read(
    tmp_path: Path, drawn: tuple[dict[str, Any], int]
) -> None:
    """Known types, no gap, no overlap, no byte too many or too few."""
    header, data_bytes = drawn
    path = tmp_path / "m.safetensors"
    write(path, header, b"\0" * data_bytes)
    if not is_valid(header, data_bytes):
        with pytest.raises(ValueError, match="deserializing"):
            read_shard(path)
        return
    shard = read_shard(path)
    assert (shard.names, shard.data_bytes) == (frozenset(header), data_bytes)
    expected: Counter[str] = Counter()
    for item in header.values():
        expected[item["dtype"]] += math.prod(item["shape"])
    assert shard.parameters == expected


@same_directory
@given(st.binary(max_size=200), st.none() | st.integers(0, 2**64 - 1))
def test_any_bytes_are_a_shard_or_an_error(
    tmp_path: Path, header: bytes, stated: int | None
) -> None:
    """No file breaks the reader, whatever length it states."""
    path = tmp_path / "m.safetensors"
    write(path, header, b"", stated)
    with contextlib.suppress(ValueError):
        assert read_shard(path).data_bytes >= 0


@pytest.mark.parametrize(
    ("header", "stated", "words"),
    [
        (b"{}", 2**63, "too large"),
        (b"{}", 2**40, "too large"),
        (b"[" * 100_000, None, "invalid JSON"),
        (b'{"a":' * 100_000, None, "recursion limit"),
        (b"\xff{}", None, "UTF-8"),
        ({"a": tensor("F32", [2**62, 2**62], 0, 4)}, None, "overflow"),
        ({"a": tensor("F32", [-1], 0, 4)}, None, "invalid value"),
    ],
)
def test_a_hostile_header_is_refused(
    tmp_path: Path, header: object, stated: int | None, words: str
) -> None:
    """Before memory is taken for what it states."""
    write(tmp_path / "m.safetensors", header, b"\0\0\0\0", stated)
    with pytest.raises(ValueError, match=words):
        read_shard(tmp_path / "m.safetensors")


SHARDS = {"model-00001-of-00002.safetensors": "a", "model-00002-of-00002.safetensors": "b"}


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """Two shards of one tensor each, and their index."""
    for shard, name in SHARDS.items():
        save_file({name: np.zeros(2, np.float32)}, tmp_path / shard)
    index = {
        "metadata": {"total_size": 16},
        "weight_map": {name: shard for shard, name in SHARDS.items()},
    }
    (tmp_path / INDEX_NAME).write_text(json.dumps(index))
    return tmp_path


def findings(directory: Path) -> list[Finding]:
    return check_weights(directory, list_files(directory).files)[1]


def test_a_sharded_model_is_whole(sharded: Path) -> None:
    """Shards and index agree, to the byte."""
    assert findings(sharded) == []


@pytest.mark.parametrize(
    ("changes", "words", "fatal"),
    [
        (
            {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "gone"}},
            "missing, but named in",
            True,
        ),
        ({"weight_map": {"a": 1}}, "values that are not file names", True),
        ({"weight_map": {}}, "no weight_map", True),
        (
            {"weight_map": {name: min(SHARDS) for name in "ab"}},
            "lacks tensors of model.safetensors.index.json: b",
            True,
        ),
        ({"weight_map": {"a": min(SHARDS)}}, "not named in", False),
        ({"metadata": {"total_size": 17}}, "total_size is 17, but the tensors have 16", False),
    ],
)
def test_an_index_that_disagrees(
    sharded: Path, changes: dict[str, object], words: str, fatal: bool
) -> None:
    """What an engine would miss is fatal; what it does not look at is a warning."""
    index = json.loads((sharded / INDEX_NAME).read_text()) | changes
    (sharded / INDEX_NAME).write_text(json.dumps(index))
    first = findings(sharded)[0]
    assert words in first.what
    assert first.fatal is fatal


def test_a_tensor_that_the_index_does_not_name(sharded: Path) -> None:
    """A shard of another version is found by its names."""
    save_file({"a": np.zeros(2), "c": np.zeros(2)}, sharded / min(SHARDS))
    assert "does not name: c" in findings(sharded)[0].what


@pytest.mark.parametrize("name", [INDEX_NAME, max(SHARDS)])
def test_a_missing_part_is_found(sharded: Path, name: str) -> None:
    """Also the index itself: the shards' names say that there must be one."""
    (sharded / name).unlink()
    assert [(finding.where, finding.fatal) for finding in findings(sharded)] == [(name, True)]


def test_no_weights_at_all(tmp_path: Path) -> None:
    """A directory without safetensors holds no model; engines do not look into others below."""
    (tmp_path / "original").mkdir()
    save_file({"a": np.zeros(2)}, tmp_path / "original/model-00001-of-00002.safetensors")
    assert [finding.what for finding in findings(tmp_path)] == ["no safetensors file"]
