"""The learned scorer's weights, and the file that holds them.

The file is safetensors, which holds only numbers and strings and cannot run code. Its metadata
names its format and the features that it was fitted to. A file with any other format or features is
rejected. Files of version 1 are still read: their format does not say what they were learnt from,
and their features lack the length of the whole text. Version 2 has the two heads `fast` and
`strong`; version 3 names its heads, one for each tier. Weights of two such heads are still written
in version 2, so that an older serve-app reads them.
"""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from serve_app.routing.ngrams import BUCKETS
from serve_app.routing.vector import FEATURES_VERSION, TERMS, Vector

SHIPPED_WEIGHTS = Path(__file__).with_name("shipped.safetensors")
FILE_BYTES_MAX = 512 * 1024
FORMAT = "serve-app routing weights"
FORMAT_VERSION = 2
NAMED_VERSION = 3
_FORMATS = ("1", "2", "3")
_FEATURES = ("1", str(FEATURES_VERSION))

HEADS = ("fast", "strong")
"""The heads of files that do not name them: the weakest and the strongest tier, whatever their
names."""
HEADS_MAX = 8
_TENSORS = ("ngrams", "terms", "intercepts")
_LEARNT = "learnt"
LEARNT_BYTES_MAX = 1 << 17


class WeightsRefused(Exception):
    """A weights file cannot be used; the message says why."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(path, problem)
        self.path = path
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}"


@dataclass(frozen=True, slots=True)
class Provenance:
    """The source of learnt weights. `apgr` is cross-validated on the records of that source."""

    created_at: str = ""
    records: int = 0
    records_sha256: str = ""
    apgr: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class RoutingWeights:
    """A logistic head for each of several tiers: each array has one row for each head.

    `heads` are the names of tiers or models, weakest first, or HEADS. `gain_min` is the gain in
    P(right) that scores 0.5; `steepness` is the slope of the score there. `learnt` says which calls
    the weights were learnt from, for `offline/learning/learnt.py`; the scorer does not read it.
    None: that is not known.
    """

    ngrams: NDArray[np.float32]
    terms: NDArray[np.float32]
    intercepts: NDArray[np.float32]
    gain_min: float = 0.1
    steepness: float = 10.0
    provenance: Provenance = field(default_factory=Provenance)
    learnt: NDArray[np.uint8] | None = None
    heads: tuple[str, ...] = HEADS

    def predict(self, vector: Vector) -> tuple[float, ...]:
        """P(right) of each head."""
        return self.predict_from(self.weigh_ngrams(vector), vector.terms)

    def weigh_ngrams(self, vector: Vector) -> NDArray[np.float32]:
        """The part of the heads' log-odds that comes from the n-grams."""
        weighed: NDArray[np.float32] = self.ngrams.take(vector.buckets, axis=1) @ vector.values
        return weighed

    def predict_from(
        self, ngrams: NDArray[np.float32], terms: NDArray[np.float32]
    ) -> tuple[float, ...]:
        """The same as `predict`, from what `weigh_ngrams` gave and from the terms."""
        log_odds = (ngrams + self.terms @ terms + self.intercepts).tolist()
        return tuple([_logistic(head) for head in log_odds])

    def score(self, vector: Vector) -> float:
        """The gain from the strongest model, mapped to 0..1."""
        chances = self.predict(vector)
        return self.map_gain(chances[-1] - chances[0])

    def map_gain(self, gain: float) -> float:
        """The score of a gain. Strictly increasing: it moves the threshold and never changes the
        order."""
        return _logistic(self.steepness * (gain - self.gain_min))


def save_weights(weights: RoutingWeights, path: Path) -> None:
    """Write the file completely or not at all."""
    tensors: dict[str, NDArray[Any]] = {
        "ngrams": weights.ngrams.astype(np.float16),
        "terms": weights.terms.astype(np.float32),
        "intercepts": weights.intercepts.astype(np.float32),
    }
    if weights.learnt is not None:
        tensors[_LEARNT] = weights.learnt
    metadata = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "features_version": str(FEATURES_VERSION),
        "gain_min": repr(weights.gain_min),
        "steepness": repr(weights.steepness),
        "provenance": orjson.dumps(asdict(weights.provenance)).decode(),
    }
    if weights.heads != HEADS:
        heads = orjson.dumps(weights.heads).decode()
        metadata |= {"format_version": str(NAMED_VERSION), "heads": heads}
    scratch = path.with_suffix(".tmp")
    scratch.write_bytes(save(tensors, metadata))
    os.replace(scratch, path)


def read_weights(path: Path = SHIPPED_WEIGHTS) -> RoutingWeights:
    """Read a weights file.

    Raises:
        WeightsRefused: the file is missing or damaged, or has another kind or version.
    """
    try:
        size = path.stat().st_size
        if size > FILE_BYTES_MAX:
            raise WeightsRefused(path, f"{size} bytes; routing weights have at most 512 KiB")
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            _check_metadata(path, metadata)
            heads = _read_heads(path, metadata)
            shapes = _list_shapes(metadata, len(heads))
            tensors = {name: _read_tensor(path, file, name, *shapes[name]) for name in shapes}
            weights = replace(_build(path, tensors, metadata), heads=heads)
            return replace(weights, learnt=_read_learnt(path, file))
    except OSError as error:
        raise WeightsRefused(path, error.strerror or "cannot be read") from None
    except SafetensorError:
        raise WeightsRefused(path, "not a safetensors file, or a damaged file") from None


def _check_metadata(path: Path, metadata: dict[str, str]) -> None:
    if metadata.get("format") != FORMAT:
        raise WeightsRefused(path, "not a routing weights file; `serve-app learn` makes one")
    known = (("format_version", _FORMATS), ("features_version", _FEATURES))
    for key, ours in known:
        theirs = metadata.get(key)
        if theirs not in ours:
            raise WeightsRefused(
                path,
                f"{key} is {theirs}, and this version of serve-app needs {' or '.join(ours)}; "
                "learn the weights anew with `serve-app learn`",
            )


def _read_heads(path: Path, metadata: dict[str, str]) -> tuple[str, ...]:
    if metadata["format_version"] != str(NAMED_VERSION):
        return HEADS
    try:
        heads = orjson.loads(metadata.get("heads", ""))
    except orjson.JSONDecodeError:
        heads = None
    named = isinstance(heads, list) and all(isinstance(head, str) and head for head in heads)
    if not named or len(set(heads)) != len(heads) or not 2 <= len(heads) <= HEADS_MAX:
        raise WeightsRefused(path, f"its `heads` are not 2 to {HEADS_MAX} different names")
    return tuple(heads)


def _list_shapes(metadata: dict[str, str], heads: int) -> dict[str, tuple[str, list[int]]]:
    terms = len(TERMS) - (metadata["features_version"] != str(FEATURES_VERSION))
    sizes = ("F16", [heads, BUCKETS]), ("F32", [heads, terms]), ("F32", [heads])
    return dict(zip(_TENSORS, sizes, strict=True))


def _read_tensor(
    path: Path, file: Any, name: str, dtype: str, shape: list[int]
) -> NDArray[np.float32]:
    if name not in file.keys():  # noqa: SIM118 - it is no mapping
        raise WeightsRefused(path, f"the tensor '{name}' is missing")
    view = file.get_slice(name)
    if view.get_dtype() != dtype or view.get_shape() != shape:
        raise WeightsRefused(path, f"the tensor '{name}' is not {dtype} of shape {shape}")
    tensor: NDArray[np.float32] = file.get_tensor(name).astype(np.float32)
    if not np.isfinite(tensor).all():
        raise WeightsRefused(path, f"the tensor '{name}' holds values that are not finite")
    return tensor


def _read_learnt(path: Path, file: Any) -> NDArray[np.uint8] | None:
    """Absent from files of format version 1."""
    if _LEARNT not in file.keys():  # noqa: SIM118 - it is no mapping
        return None
    view = file.get_slice(_LEARNT)
    dtype, shape = view.get_dtype(), view.get_shape()
    # A power of two: positions are taken modulo the size.
    if dtype != "U8" or len(shape) != 1 or not _is_power(shape[0]) or shape[0] > LEARNT_BYTES_MAX:
        raise WeightsRefused(path, f"the tensor '{_LEARNT}' is {dtype} of shape {shape}")
    learnt: NDArray[np.uint8] = file.get_tensor(_LEARNT)
    return learnt


def _is_power(size: int) -> bool:
    return size > 0 and size & (size - 1) == 0


def _build(
    path: Path, tensors: dict[str, NDArray[np.float32]], metadata: dict[str, str]
) -> RoutingWeights:
    try:
        gain_min, steepness = float(metadata["gain_min"]), float(metadata["steepness"])
        provenance = Provenance(**orjson.loads(metadata["provenance"]))
    except (KeyError, TypeError, ValueError):
        raise WeightsRefused(path, "its metadata cannot be read") from None
    if not (-1 <= gain_min <= 1 and 0 < steepness < math.inf):
        raise WeightsRefused(path, "its `gain_min` or `steepness` is out of range")
    ngrams, terms, intercepts = (tensors[name] for name in _TENSORS)
    if terms.shape[1] < len(TERMS):
        terms = np.pad(terms, ((0, 0), (0, 1)))
    return RoutingWeights(ngrams, terms, intercepts, gain_min, steepness, provenance)


def _logistic(log_odds: float) -> float:
    if log_odds < 0:  # written so that neither side overflows
        power = math.exp(log_odds)
        return power / (1.0 + power)
    return 1.0 / (1.0 + math.exp(-log_odds))
