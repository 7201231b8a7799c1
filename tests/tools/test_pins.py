import json

import pins
import pytest
from check_locks import check
from lock import read_report


def test_locks_read_as_they_are_written() -> None:
    """Names are compared by their canonical form, and a lock's comments are no pins."""
    locked = {"pyyaml": "6.0.3", "torch": "2.13.0+cpu"}
    assert pins.parse_lock(pins.render_lock(locked)) == locked
    assert pins.parse_lock("# why\nruamel_yaml.Clib==1.0  # here\n\n") == {
        "ruamel-yaml-clib": "1.0"
    }


@pytest.mark.parametrize(
    ("present", "problem"),
    [
        ({"ray": "2.60.0", "orjson": "3.11.0"}, None),
        ({"ray": "2.60.0", "orjson": "3.11.0", "triton": "3.0"}, "must not hold triton"),
        ({"ray": "2.59.0", "orjson": "3.11.0"}, "has 2.59.0 for ray[serve]==2.60.0"),
        ({"ray": "2.60.0"}, "has nothing for orjson>=3.10"),
    ],
)
def test_check_names_what_a_lock_gets_wrong(present: dict[str, str], problem: str | None) -> None:
    """A package that is excluded, missing or outside pyproject.toml's range is one line."""
    problems = check("cpu.txt", present, ["ray[serve]==2.60.0", "orjson>=3.10"])
    assert problems == ([f"cpu.txt {problem}"] if problem else [])


def test_a_lock_leaves_out_what_must_not_be_installed() -> None:
    """pip resolves the excluded packages too, since others declare them."""
    names = [("Ray", "2.60.0"), ("triton", "3.7.0")]
    install = [{"metadata": {"name": name, "version": version}} for name, version in names]
    assert read_report(json.dumps({"install": install})) == {"ray": "2.60.0"}
