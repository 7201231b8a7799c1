"""A key set in a config's text: that key, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from serve_app.config.edit import NotEditable, Value, set_tier_keys

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
REVISION = ("engine", "revision")
SHARED = """
applications:
  - args:
      tiers:
        - name: fast
          model_id: a  # which
          engine: &engine
            # first
            dtype: auto
        - name: strong
          engine: *engine
          sha256sums: {a: b,
                       c: d}
          tasks: [generate]
        - {name: flat, engine: {dtype: auto}}
        - name: flow
          engine: {dtype: auto}
"""


def tier_of(text: str, name: str) -> dict[str, object]:
    [application] = yaml.safe_load(text)["applications"]
    found: dict[str, object] = next(t for t in application["args"]["tiers"] if t["name"] == name)
    return found


def test_a_new_key_comes_first_in_its_map() -> None:
    """Comments and all other lines stay."""
    edited = set_tier_keys(SHARED, "fast", REVISION, "abc")
    assert edited == SHARED.replace(
        "            dtype: auto\n", '            revision: "abc"\n            dtype: auto\n', 1
    )
    edited = set_tier_keys(SHARED, "fast", ("sha256sums",), {"b c": "2", "a": "1"})
    new = '          sha256sums:\n            "a": "1"\n            "b c": "2"\n'
    which = "          model_id: a  # which\n"
    assert edited == SHARED.replace(which, which + new)


def test_a_key_that_is_there_is_replaced() -> None:
    """Whatever lines its value took; twice the same is once."""
    edited = set_tier_keys(SHARED, "strong", ("sha256sums",), "FILE")
    assert tier_of(edited, "strong")["sha256sums"] == "FILE"
    assert len(edited.splitlines()) == len(SHARED.splitlines()) - 1
    value: Value = {"x": "1", "y": "2"}
    once = set_tier_keys(SHARED, "strong", ("sha256sums",), value)
    assert set_tier_keys(once, "strong", ("sha256sums",), value) == once
    assert tier_of(once, "strong")["tasks"] == ["generate"]


@pytest.mark.parametrize(
    ("tier", "words"),
    [
        ("strong", "an alias"),
        ("flow", "not a map that is written out"),
        ("flat", "not written out key by key"),
        ("missing", "tier missing is not"),
    ],
)
def test_what_others_share_is_not_touched(tier: str, words: str) -> None:
    """Setting a key there would set it elsewhere too, or need another layout."""
    with pytest.raises(NotEditable, match=words):
        set_tier_keys(SHARED, tier, REVISION, "abc")


@pytest.mark.parametrize("text", ["", "a: 1", "applications: []", "applications: [{args: 1}]"])
def test_a_text_without_tiers(text: str) -> None:
    """There is no tier to set a key of."""
    with pytest.raises(NotEditable):
        set_tier_keys(text, "fast", REVISION, "abc")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_nothing_else_changes_in_the_shipped_configs(path: Path) -> None:
    """Read back, the key has its value, and every other key the one that it had."""
    text = path.read_text()
    before = yaml.safe_load(text)
    second = before["applications"][0]["args"]["tiers"][1]
    edited = set_tier_keys(text, second["name"], ("sha256sums",), {"a b": "1"})
    second["sha256sums"] = {"a b": "1"}
    assert yaml.safe_load(edited) == before


@given(st.dictionaries(st.text(min_size=1, max_size=8), st.text(max_size=80), min_size=1))
def test_any_text_is_read_back(value: dict[str, str]) -> None:
    """Names of files may hold anything, and are read as they were."""
    edited = set_tier_keys(SHARED, "fast", ("sha256sums",), value)
    assert tier_of(edited, "fast")["sha256sums"] == value
    assert tier_of(edited, "strong") == tier_of(SHARED, "strong")
