"""One word, one thing: the glossary, and the names of classes that serve."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "serve_app"
BY_HAND = ("offline", "cli")
HOMES = {
    # The one tree of the errors of calls. The errors of a command are named after the command.
    "errors": ["core/errors.py"],
    # A report is named after its subject.
    "report": [],
    # The burden on a tier: the value that all packages share, and a Router's bookkeeping of it.
    "load": ["core/load.py", "leases/load.py"],
}
"""Names of modules that say little without their folder, and the only files that have them."""
ROWS = re.findall(
    r"^\| (?P<word>[^|]+) \| [^|]+ \| (?P<code>[^|]+) \|$",
    (ROOT / "docs/glossary.md").read_text(),
    re.M,
)


def test_the_glossary_names_code_that_exists() -> None:
    """Every file and folder of its third column is there, and every word stands once."""
    rows = [(word, code) for word, code in ROWS if set(word) != {"-"} and word != "word"]
    assert len(rows) > 30
    named = [path for _, code in rows for path in re.findall(r"`([\w/.]+)`", code)]
    assert [path for path in named if not (PACKAGE / path).exists()] == []
    words = [word for word, _ in rows]
    assert len(words) == len(set(words))


def test_no_two_classes_that_serve_share_a_name() -> None:
    """A reader who knows a name knows what it is, wherever it stands."""
    places: dict[str, list[str]] = defaultdict(list)
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.relative_to(PACKAGE).parts[0] not in BY_HAND:
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    places[node.name].append(str(path.relative_to(PACKAGE)))
    assert len(places) > 100
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_modules_are_named_after_their_contents() -> None:
    """A file name that a search finds once is enough to find the file."""
    named = {stem: sorted(PACKAGE.rglob(f"{stem}.py")) for stem in HOMES}
    assert {
        stem: [str(path.relative_to(PACKAGE)) for path in paths] for stem, paths in named.items()
    } == HOMES


def test_load_is_the_burden_on_a_tier() -> None:
    """No function 'loads' a file, a table or a config: such functions `read_`."""
    names = [
        f"{path.relative_to(PACKAGE)}: {node.name}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and re.match(r"_*load_", node.name)
    ]
    vllms = "replica/media_connector.py: load_from_url"  # a method of vLLM's class, and its pair
    header = "replica/engine_http.py: _load_header"  # the header that carries the load
    assert names == [header, vllms, f"{vllms}_async"]
