"""Mutation testing: break one expression or statement at a time, and run the tests that reach it.

    python tools/mutation.py [--sample=80] serve_app/leases serve_app/routing/choose.py

A change that no test notices has survived: a hole in the tests, dead code, or a change without an
effect. The tests of `serve_app/leases/pool.py` are those of `tests/leases/`. A run without changes
records which test reaches which line. Each change then runs in a fork of this process, which has
imported everything but `serve_app`; no file is written.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import itertools
import os
import pickle
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, ModuleType

import coverage
import pytest

ROOT = Path(__file__).resolve().parents[1]
OPTIONS = ["-q", "--assert=plain", "--hypothesis-seed=1"]
PLUGINS_OFF = ["cacheprovider", "xdist", "cov"]

COMPARED: dict[type[ast.cmpop], list[type[ast.cmpop]]] = {
    ast.Lt: [ast.LtE, ast.GtE],
    ast.LtE: [ast.Lt, ast.Gt],
    ast.Gt: [ast.GtE, ast.LtE],
    ast.GtE: [ast.Gt, ast.Lt],
    ast.Eq: [ast.NotEq],
    ast.NotEq: [ast.Eq],
    ast.Is: [ast.IsNot],
    ast.IsNot: [ast.Is],
    ast.In: [ast.NotIn],
    ast.NotIn: [ast.In],
}
COMPUTED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Add,
    ast.Pow: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitXor: ast.BitOr,
}
RENAMED = {"min": "max", "max": "min", "any": "all", "all": "any"}


@dataclass
class Change:
    """One change of one file's syntax tree."""

    lines: range
    text: str
    apply: Callable[[], None]
    revert: Callable[[], None]


# What is changed


def changes_of(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that take the place of `node`, one a change."""
    match node:
        case ast.Compare(left=left, ops=[op], comparators=right):
            for other in COMPARED[type(op)]:
                yield ast.Compare(left, [other()], right)
        case ast.BoolOp(op=op, values=values):
            yield ast.BoolOp(ast.And() if isinstance(op, ast.Or) else ast.Or(), values)
            yield from values
        case ast.BinOp(left=left, op=op, right=right_operand) if type(op) in COMPUTED:
            yield ast.BinOp(left, COMPUTED[type(op)](), right_operand)
        case ast.AugAssign(target=target, op=op, value=value) if type(op) in COMPUTED:
            yield ast.AugAssign(target, COMPUTED[type(op)](), value)
            yield ast.Pass()
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield operand
        case ast.IfExp(body=body, orelse=orelse):
            yield from (body, orelse)
        case ast.If(test=test, body=statements, orelse=others):
            for value in (True, False):
                yield ast.If(ast.Constant(value), statements, others)
        case ast.While(body=statements, orelse=others):
            yield ast.While(ast.Constant(value=False), statements, others)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords) if name in RENAMED:
            yield ast.Call(ast.Name(RENAMED[name], ast.Load()), args, keywords)
        case ast.Constant(value=value):
            yield from changed_constants(value)
        case ast.comprehension(target=target, iter=source, ifs=[_, *_] as ifs, is_async=is_async):
            for test in ifs:
                rest = [other for other in ifs if other is not test]
                yield ast.comprehension(target, source, rest, is_async)
        case ast.stmt():
            yield from changed_statements(node)


def changed_constants(value: object) -> Iterator[ast.AST]:
    match value:
        case bool():
            yield ast.Constant(not value)
        case int() | float():
            yield ast.Constant(value + 1)
        case str():
            yield ast.Constant("XX" + value)
        case bytes():
            yield ast.Constant(b"XX" + value)


def changed_statements(node: ast.stmt) -> Iterator[ast.AST]:
    match node:
        case ast.Expr(value=ast.Call() | ast.Await()) | ast.Delete() | ast.Raise():
            yield ast.Pass()
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript(), *_]):
            yield ast.Pass()
        case ast.Return(value=None):
            yield ast.Pass()
        case ast.Return(value=value) if not isinstance(value, ast.Constant):
            yield ast.Return(ast.Constant(None))
        case ast.Break():
            yield ast.Continue()
        case ast.Continue():
            yield ast.Break()


def is_left_alone(node: ast.AST) -> bool:
    """Whether nothing inside `node` is changed: it is for readers, type checkers or logs only."""
    match node:
        case ast.Expr(value=ast.Constant()) | ast.Assert() | ast.Import() | ast.ImportFrom():
            return True
        case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id="logger")))):
            return True
        case ast.Call(func=ast.Name(id="cast" | "TypeVar")):
            return True
        case ast.Subscript(value=ast.Name(id="Literal")):
            return True
        case ast.Assign(targets=[ast.Name(id="__slots__" | "__all__" | "logger")]):
            return True
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return True
        case ast.ClassDef(bases=bases):
            return any(isinstance(base, ast.Name) and base.id == "Protocol" for base in bases)
    return False


SKIPPED_FIELDS = {"annotation", "returns", "decorator_list", "bases", "type_comment"}


def find_changes(tree: ast.Module) -> list[Change]:
    """Every change of a file."""
    return list(_walk(tree, range(0)))


def _walk(node: ast.AST, lines: range) -> Iterator[Change]:
    for name, value in ast.iter_fields(node):
        if name in SKIPPED_FIELDS or (isinstance(node, ast.Raise) and name == "exc"):
            continue
        for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if isinstance(child, ast.AST) and not is_left_alone(child):
                inner = header_lines(child) if isinstance(child, ast.stmt) else lines
                for other in changes_of(child):
                    yield make_change(node, name, index, child, other, inner)
                yield from _walk(child, inner)


def header_lines(node: ast.stmt) -> range:
    """The lines of a statement without the statements inside it."""
    inside = [
        child.lineno
        for name in ("body", "orelse", "finalbody")
        for child in getattr(node, name, [])
        if isinstance(child, ast.stmt)
    ]
    end = min(inside, default=(node.end_lineno or node.lineno) + 1)
    return range(node.lineno, max(end, node.lineno + 1))


def make_change(
    parent: ast.AST, name: str, index: int | None, old: ast.AST, new: ast.AST, lines: range
) -> Change:
    if isinstance(old, ast.expr | ast.stmt):
        ast.copy_location(new, old)

    def put(node: ast.AST) -> None:
        if index is None:
            setattr(parent, name, node)
        else:
            getattr(parent, name)[index] = node

    text = f"{first_line(old)}  ->  {first_line(new)}"
    return Change(lines, text, lambda: put(new), lambda: put(old))


def first_line(node: ast.AST) -> str:
    return ast.unparse(node).partition("\n")[0].strip()[:90]


# How the tests are run


class Mutant(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Lets one module be imported from compiled code instead of from its file."""

    def __init__(self, name: str, path: Path, code: CodeType) -> None:
        self._name, self._path, self._code = name, path, code

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._name:
            return None
        return importlib.util.spec_from_file_location(fullname, self._path, loader=self)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        exec(self._code, module.__dict__)


@dataclass
class Reached:
    """What a run without changes has recorded: which tests reach which line, and their time."""

    seconds: dict[str, float] = field(default_factory=dict)
    tests_of: dict[str, dict[int, list[str]]] = field(default_factory=dict)
    """By file and line; the test '' is the import."""
    modules: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def tests(self, path: Path, lines: range) -> list[str]:
        """The tests to run for a change of these lines, the quickest first."""
        reached = self.tests_of[str(path)]
        found = {test for line in lines for test in reached.get(line, ())}
        if "" in found:
            found = {test for tests in reached.values() for test in tests}
        return sorted(found - {"", *self.failed}, key=lambda test: self.seconds[test])


class Recorder:
    """A pytest plugin that records which test reaches which line of some files."""

    def __init__(self, paths: list[Path]) -> None:
        self.reached = Reached()
        self._paths = [str(path) for path in paths]
        self._coverage = coverage.Coverage(data_file=None, include=self._paths, config_file=False)
        self._coverage.start()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._coverage.switch_context(nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        seconds = self.reached.seconds
        seconds[report.nodeid] = seconds.get(report.nodeid, 0.0) + report.duration
        if report.failed:
            self.reached.failed.append(report.nodeid)

    def finish(self) -> Reached:
        self._coverage.stop()
        data = self._coverage.get_data()
        self.reached.tests_of = {path: data.contexts_by_lineno(path) for path in self._paths}
        self.reached.modules = [name for name in sys.modules if not is_test(name)]
        return self.reached


class Chosen:
    """A pytest plugin that runs these tests in this order."""

    def __init__(self, tests: list[str]) -> None:
        self._order = {test: index for index, test in enumerate(tests)}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if item.nodeid in self._order]
        items.sort(key=lambda item: self._order[item.nodeid])


def is_test(name: str) -> bool:
    return name.partition(".")[0] in {"tests", "__main__", "conftest"}


def run_pytest(paths: list[str], plugin: object, *options: str) -> int:
    off = [option for name in PLUGINS_OFF for option in ("-p", f"no:{name}")]
    options = (*OPTIONS, *options, *off, "-m", "not serve", *paths)
    return int(pytest.main(list(options), plugins=[plugin]))


def in_fork(work: Callable[[], int], timeout_s: float) -> int | None:
    """The exit status of `work` in a fork of this process, None if it takes too long."""
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        with contextlib.suppress(BaseException):
            quiet = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(quiet, stream)
            os._exit(work())
        os._exit(99)
    return wait_for(child, time.monotonic() + timeout_s)


def wait_for(child: int, until: float) -> int | None:
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def record(paths: list[Path], tests: list[str]) -> Reached:
    """Run the tests of some files without a change."""
    with tempfile.NamedTemporaryFile("rb", suffix=".pickle") as file:

        def work() -> int:
            recorder = Recorder(paths)
            status = run_pytest(tests, recorder)
            Path(file.name).write_bytes(pickle.dumps(recorder.finish()))
            return status

        if (status := in_fork(work, 600)) not in (0, 1):
            sys.exit(f"{tests} do not run (status {status})")
        reached: Reached = pickle.load(file)
    for test in reached.failed:
        print(f"not used, because it fails without a change: {test}", flush=True)
    return reached


def import_unaffected(names: list[str], target: str) -> None:
    """Import what a change of `target` cannot reach, once for all forks."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "serve_app"]:
        del sys.modules[name]
    affected = find_importers(names, target)
    for name in names:
        if name not in affected:
            with contextlib.suppress(BaseException):
                importlib.import_module(name)


def find_importers(names: list[str], target: str) -> set[str]:
    """The target and the modules of `serve_app` that import it, by whatever way."""
    imported = {name: find_imports(name) for name in names if name.startswith("serve_app.")}
    affected = {target}
    while found := {
        name for name, others in imported.items() if name not in affected and others & affected
    }:
        affected |= found
    return affected


def find_imports(name: str) -> set[str]:
    path = ROOT.joinpath(*name.split(".")).with_suffix(".py")
    if not path.is_file():
        return set()
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


# The report


def survives(path: Path, tree: ast.Module, change: Change, reached: Reached) -> bool:
    """Whether every test that reaches the changed lines passes."""
    tests = reached.tests(path, change.lines)
    if not tests:
        return True
    change.apply()
    try:
        code = compile(ast.fix_missing_locations(tree), str(path), "exec")
    finally:
        change.revert()
    files = list(dict.fromkeys(test.partition("::")[0] for test in tests))
    name = module_name(path)

    def work() -> int:
        sys.meta_path.insert(0, Mutant(name, path, code))
        return run_pytest(files, Chosen(tests), "-x")

    timeout_s = 60 + 3 * sum(reached.seconds[test] for test in tests)
    return in_fork(work, timeout_s) == 0


def check(path: Path, reached: Reached, sample: int, seed: int) -> tuple[int, int, int]:
    """Print the changes of a file that survive; how many there are, were tried and survived."""
    tree = ast.parse(path.read_text())
    changes = find_changes(tree)
    chosen = changes
    if len(changes) > sample:
        chosen = random.Random(seed).sample(changes, sample)
        chosen.sort(key=lambda change: change.lines.start)
    import_unaffected(reached.modules, module_name(path))
    survivors = 0
    for change in chosen:
        if survives(path, tree, change, reached):
            survivors += 1
            note = "" if reached.tests(path, change.lines) else "  (no test reaches it)"
            print(f"{path.relative_to(ROOT)}:{change.lines.start}: {change.text}{note}", flush=True)
    return len(changes), len(chosen), survivors


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def source_files(arguments: list[str]) -> list[Path]:
    paths = [ROOT / argument for argument in arguments]
    files = [sorted(path.glob("*.py")) if path.is_dir() else [path] for path in paths]
    return [file for group in files for file in group if file.name != "__init__.py"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("paths", nargs="+", help="files or packages of serve_app")
    parser.add_argument("--sample", type=int, default=80, help="the most changes of one file")
    parser.add_argument("--seed", type=int, default=1, help="chooses the sample")
    parser.add_argument("--tests", nargs="*", help="tests instead of those of the same package")
    options = parser.parse_args()
    os.chdir(ROOT)
    os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = tempfile.mkdtemp()
    files = source_files(options.paths)
    for package, group in itertools.groupby(files, key=lambda path: path.parent.name):
        paths = list(group)
        reached = record(paths, options.tests or [f"tests/{package}"])
        for path in paths:
            print(path.name, *check(path, reached, options.sample, options.seed), flush=True)


if __name__ == "__main__":
    main()
