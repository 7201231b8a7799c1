"""The models of a config on the disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from serve_app import demo
from serve_app.config.tiers import TierConfig
from serve_app.offline.doctor.models import check_model_of, measure_read_rate


def said(source: str, **fields: Any) -> str:
    """Everything that is found of a tier with this source."""
    tier = TierConfig(name="fast", model_id="m", model_source=source, **fields)
    findings = check_model_of(tier, demo.locate)
    return "\n".join(f"{found.level}: {found.what}" for found in findings)


def test_a_demo_model() -> None:
    """It is whole, and its reading time is told; nothing is hashed."""
    text = said("demo:fast", sha256sums="SHA256SUMS")
    assert "ok: 1 safetensors file" in text
    assert "GB/s" in text
    assert "error" not in text
    assert "warning" not in text
    assert "not pinned" in said("demo:fast")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("/no/such/model", "error: /no/such/model does not exist"),
        ("Qwen/Qwen2.5-7B-Instruct", "note: Qwen/Qwen2.5-7B-Instruct is not a directory here"),
    ],
)
def test_a_model_that_is_not_here(source: str, words: str) -> None:
    """An error where it must be here, a note where it will be fetched."""
    assert words in said(source)


def test_a_model_without_weights(tmp_path: Path) -> None:
    """Nothing is missed where the engine makes the weights up."""
    text = said(str(tmp_path), engine={"load_format": "dummy"})
    assert text == "note: load_format is dummy: the weights are random, and no weight file is read"


def test_a_damaged_model(tmp_path: Path) -> None:
    """What `serve-app verify` finds is found here as well."""
    (tmp_path / "model.safetensors").write_bytes(b"\x00" * 4)
    text = said(str(tmp_path))
    assert "error: config.json: not there" in text
    assert "error: model.safetensors" in text


def test_the_read_rate_is_a_rate(tmp_path: Path) -> None:
    """Bytes a second, of files larger and smaller than what is read."""
    path = tmp_path / "file"
    path.write_bytes(b"x" * 1_000_000)
    assert measure_read_rate(path) > 1000
