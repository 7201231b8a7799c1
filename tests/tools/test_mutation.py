"""Which changes mutation testing makes."""

import ast

import mutation
import pytest


def texts(source: str) -> list[str]:
    """Each change of a source, as the statement that it leaves, without the unchanged rest."""
    tree = ast.parse(source)
    before = ast.unparse(tree)
    found = []
    for change in mutation.find_changes(tree):
        change.apply()
        found.append(ast.unparse(tree))
        change.revert()
    assert ast.unparse(tree) == before
    assert before not in found
    return found


@pytest.mark.parametrize(
    ("source", "changed"),
    [
        ("a < b", ["a <= b", "a >= b"]),
        ("a is None", ["a is not None"]),
        ("a and b", ["a or b", "a", "b"]),
        ("a + 2", ["a - 2", "a + 3"]),
        ("not a", ["a"]),
        ("a if b else c", ["a", "c"]),
        ("max(a, b)", ["pass", "min(a, b)"]),
        ("a += b", ["a -= b", "pass"]),
        ("a.b = c", ["pass"]),
        ("[a for a in b if c]", ["[a for a in b]"]),
        ("if a:\n    b", ["if True:\n    b", "if False:\n    b"]),
        ("while a:\n    break", ["while False:\n    break", "while a:\n    continue"]),
        ("def f():\n    return a", ["def f():\n    return None"]),
        ("def f():\n    raise A('text')", ["def f():\n    pass"]),
    ],
)
def test_a_change_breaks_one_thing(source: str, changed: list[str]) -> None:
    """Comparisons, conditions, arithmetic, constants and statements, one change at a time."""
    assert texts(source) == changed


@pytest.mark.parametrize(
    "source",
    [
        "'docstring'",
        "import a",
        "assert a is not None",
        "logger.info('text %s', 1)",
        "__all__ = ['a']",
        "a: Literal['b']",
        "A = Literal['b']",
        "class A(Protocol):\n    a = 1",
        "def f(a: B[1]) -> C[2]:\n    ...",
    ],
)
def test_what_does_nothing_is_left_alone(source: str) -> None:
    """Documentation, types, logs and what only a type checker needs."""
    assert texts(source) == []


def test_a_change_belongs_to_the_lines_of_its_statement() -> None:
    """A change in the head of a block does not run the tests of the block alone."""
    tree = ast.parse("if (\n    a\n    < b\n):\n    c = d + e\n")
    lines = [(change.lines.start, change.lines.stop) for change in mutation.find_changes(tree)]
    assert lines == [(1, 5)] * 4 + [(5, 6)]


def test_modules_that_import_the_changed_one_are_imported_again() -> None:
    """Directly or through others; the modules below it are shared."""
    names = ["serve_app.leases.pool", "serve_app.leases.client", "serve_app.leases.sessions"]
    assert mutation.find_importers(names, "serve_app.leases.waiting") == {
        "serve_app.leases.waiting",
        "serve_app.leases.pool",
        "serve_app.leases.client",
    }
