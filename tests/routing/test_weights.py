"""The weights file: what it keeps, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from serve_app.core.call import Prompt, Turn
from serve_app.routing import weights as module
from serve_app.routing.ngrams import BUCKETS
from serve_app.routing.vector import FEATURES_VERSION, TERMS, observe
from serve_app.routing.weights import (
    FILE_BYTES_MAX,
    HEADS,
    HEADS_MAX,
    SHIPPED_WEIGHTS,
    Provenance,
    RoutingWeights,
    WeightsRefused,
    read_weights,
    save_weights,
)

VECTOR = observe(Prompt((Turn("user", "Prove that the rationals are dense."),)))
METADATA = {
    "format": module.FORMAT,
    "format_version": str(module.FORMAT_VERSION),
    "features_version": str(FEATURES_VERSION),
    "gain_min": "0.1",
    "steepness": "10.0",
    "provenance": "{}",
}


def draw_weights(heads: tuple[str, ...] = HEADS) -> RoutingWeights:
    rng = np.random.default_rng(1)
    return RoutingWeights(
        rng.normal(size=(len(heads), BUCKETS)).astype(np.float32),
        rng.normal(size=(len(heads), len(TERMS))).astype(np.float32),
        rng.normal(size=len(heads)).astype(np.float32),
        heads=heads,
        gain_min=0.2,
        provenance=Provenance("2026-01-02T03:04:05Z", 7, "abc", 0.6),
        learnt=np.arange(64, dtype=np.uint8),
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "weights.safetensors"


def write(path: Path, metadata: dict[str, str], **changes: Any) -> None:
    """A file like ours, with changed tensors; None removes one."""
    tensors = load_file(SHIPPED_WEIGHTS) | changes
    save_file({k: v for k, v in tensors.items() if v is not None}, path, metadata)


def test_a_file_keeps_everything(path: Path) -> None:
    """What was saved predicts the same, but for the rounding of half precision."""
    weights = draw_weights()
    save_weights(weights, path)
    loaded = read_weights(path)
    assert loaded.provenance == weights.provenance
    assert loaded.learnt is not None
    assert loaded.learnt.tolist() == list(range(64))
    assert (loaded.gain_min, loaded.steepness) == (0.2, weights.steepness)
    assert loaded.predict(VECTOR) == pytest.approx(weights.predict(VECTOR), abs=1e-2)
    assert path.stat().st_size <= FILE_BYTES_MAX
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("count", [3, HEADS_MAX])
def test_heads_of_more_tiers_are_kept_by_name(path: Path, count: int) -> None:
    """Each predicts for its tier, and the score is that of the strongest and the weakest."""
    heads = tuple(f"tier-{number}" for number in range(count))
    weights = draw_weights(heads)
    save_weights(weights, path)
    loaded = read_weights(path)
    assert loaded.heads == heads
    chances = loaded.predict(VECTOR)
    assert chances == pytest.approx(weights.predict(VECTOR), abs=1e-2)
    assert loaded.score(VECTOR) == loaded.map_gain(chances[-1] - chances[0])
    assert path.stat().st_size <= FILE_BYTES_MAX


def test_two_unnamed_heads_are_written_for_an_older_reader(path: Path) -> None:
    """The file says version 2, and nothing of heads."""
    save_weights(draw_weights(), path)
    with safe_open(path, framework="numpy") as file:
        assert file.metadata()["format_version"] == "2"
        assert "heads" not in file.metadata()
    assert read_weights(path).heads == HEADS


def test_the_shipped_file_is_small_and_known() -> None:
    """It loads, and says what it was learnt from; the data sheet lies beside it."""
    assert SHIPPED_WEIGHTS.stat().st_size <= FILE_BYTES_MAX
    provenance = read_weights().provenance
    assert provenance.records > 1000
    sheet = SHIPPED_WEIGHTS.with_name("WEIGHTS.md").read_text(encoding="utf-8")
    assert provenance.records_sha256 in sheet
    assert provenance.created_at in sheet


def test_a_higher_gain_is_a_higher_score() -> None:
    """The mapping keeps the order, and puts `gain_min` at a half."""
    weights = draw_weights()
    scores = [weights.map_gain(gain) for gain in np.linspace(-1, 1, 50)]
    assert scores == sorted(scores)
    assert weights.map_gain(0.2) == 0.5
    assert 0 <= scores[0] < scores[-1] <= 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "damaged"),
        (b"\x80\x04\x95 a pickle", "damaged"),
        (b"PK\x03\x04 an npz file", "damaged"),
        (b"x" * (FILE_BYTES_MAX + 1), "at most 512 KiB"),
    ],
)
def test_foreign_files_are_refused(path: Path, content: bytes, words: str) -> None:
    """Whatever is no such file is said to be none."""
    path.write_bytes(content)
    with pytest.raises(WeightsRefused, match=words):
        read_weights(path)


def test_a_missing_file_is_refused(path: Path) -> None:
    """By its name."""
    with pytest.raises(WeightsRefused, match=r"weights\.safetensors: No such file"):
        read_weights(path)


def test_a_cut_file_is_refused(path: Path) -> None:
    """Half a copy is not half as good."""
    path.write_bytes(SHIPPED_WEIGHTS.read_bytes()[:-100])
    with pytest.raises(WeightsRefused, match="damaged"):
        read_weights(path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": "other"}, "not a routing weights file"),
        (
            {"format_version": "4"},
            "format_version is 4, and this version of serve-app needs 1 or 2 or 3",
        ),
        ({"format_version": "3"}, "its `heads` are not 2 to 8 different names"),
        ({"format_version": "3", "heads": '["a"]'}, "its `heads` are not"),
        ({"format_version": "3", "heads": '["a", "a"]'}, "its `heads` are not"),
        ({"format_version": "3", "heads": '{"a": 1}'}, "its `heads` are not"),
        ({"format_version": "3", "heads": '["a", "b", "c"]'}, r"is not F16 of shape \[3, "),
        ({"features_version": "0"}, "features_version is 0"),
        ({"features_version": "1"}, r"'terms' is not F32 of shape \[2, 30\]"),
        ({"gain_min": "nan"}, "`gain_min` or `steepness` is out of range"),
        ({"steepness": "steep"}, "cannot be read"),
        ({"provenance": "[1]"}, "cannot be read"),
        ({"provenance": '{"pickle": 1}'}, "cannot be read"),
    ],
)
def test_other_versions_are_refused(path: Path, changes: dict[str, str], words: str) -> None:
    """Weights mean something for the features that they were fitted to, and nothing else."""
    write(path, METADATA | changes)
    with pytest.raises(WeightsRefused, match=words):
        read_weights(path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"terms": None}, "'terms' is missing"),
        ({"terms": np.zeros((2, 3), np.float32)}, "'terms' is not F32 of shape"),
        ({"ngrams": np.zeros((2, BUCKETS), np.float32)}, "'ngrams' is not F16 of shape"),
        ({"learnt": np.zeros(63, np.uint8)}, "'learnt' is U8 of shape"),
        ({"learnt": np.zeros(64, np.float32)}, "'learnt' is F32 of shape"),
        ({"intercepts": np.array([0, np.nan], np.float32)}, "'intercepts' holds values that"),
    ],
)
def test_other_tensors_are_refused(path: Path, changes: dict[str, Any], words: str) -> None:
    """Every tensor must be there, in its type and shape, and finite."""
    write(path, METADATA, **changes)
    with pytest.raises(WeightsRefused, match=words):
        read_weights(path)


def test_files_of_the_first_version_are_read(path: Path) -> None:
    """They do not say what they were learnt from, and the length of a text has no weight."""
    terms = load_file(SHIPPED_WEIGHTS)["terms"][:, : len(TERMS) - 1]
    old = METADATA | {"format_version": "1", "features_version": "1"}
    write(path, old, terms=np.ascontiguousarray(terms), learnt=None)
    found = read_weights(path)
    assert found.learnt is None
    assert found.terms[:, -1].tolist() == [0, 0]
    assert found.terms[:, :-1].tolist() == terms.tolist()
