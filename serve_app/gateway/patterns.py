"""Measures the repetitions of a regular expression or grammar, and whether a grammar is finite.

The functions here read no more than that; the engine reports all other faults.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

REPEATS_MAX = 128
"""Above about this number xgrammar counts repetitions instead of unrolling them."""
OPTIONAL_REPEATS = 16
"""The weight of one optional part. Many optional parts in a row (`[a-z]?`) slow down compiling, and
also the check of every token against them."""

_ATOM = re.compile(r"\\.|\[(?:\\.|[^\]\\])*\]?|[(){}|*+?]|.", re.DOTALL)
_RANGE = re.compile(r"\{([0-9]{1,6})(,([0-9]{0,6}))?\}")
_TEXT = re.compile(r'#[^\n]*|"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]', re.DOTALL)
_RULE = re.compile(r"^[ \t]*([A-Za-z_.-][\w.-]*)(?:\s|#[^\n]*\n)*::=", re.MULTILINE)
_LARK_COMMENT = re.compile(r"(?:#|//).*")
_LARK_TEXT = re.compile(r"'([^'\n]*)'")
_LARK_RULE = re.compile(r"^[ \t]*\??([^\s:|?][^\s:?]*)\??[ \t]*:", re.MULTILINE)
_SYMBOL = re.compile(
    r"""\#[^\n]*|(?P<text>"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\])|(?P<name>[A-Za-z_.-][\w.-]*)"""
    r"""|(?P<range>\{[^}]*\})|(?P<mark>[()|*+?])""",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Shape:
    """`repeats` are the positions that repetitions add when they are unrolled; `depth` is how deep
    brackets are nested."""

    repeats: int
    depth: int


def measure_pattern(pattern: str) -> Shape:
    """The shape of a regular expression; linear in its length."""
    atoms = plain = last = position = depth = optional = 0
    outer: list[int] = []
    previous = "|"
    while match := _ATOM.match(pattern, position):
        token, position = match.group(), match.end()
        if token == "(":
            outer.append(atoms)
            depth = max(depth, len(outer))
            atoms = last = 0
        elif token == ")" and outer:
            last, atoms = atoms, outer.pop() + atoms
        elif token == "{" and (found := _RANGE.match(pattern, match.start())):
            atoms += last * (_times(found) - 1)
            position = found.end()
        elif token not in "|*+?":
            atoms += 1
            plain += 1
            last = 1
        optional += _is_optional(previous, token)
        previous = token
    optional += previous == "|" and bool(pattern)
    return Shape(sum(outer) + atoms - plain + OPTIONAL_REPEATS * optional, depth)


def _is_optional(previous: str, token: str) -> bool:
    """Whether a part may be left out: `a?`, but neither `(?:` nor a lazy `a*?`; or `(a|)`."""
    if token == "?":
        return previous not in ("(", "*", "+", "?", "{")
    return previous in ("(", "|") and token in ("|", ")")


def measure_grammar(grammar: str) -> Shape:
    """The shape of all rules of a grammar together; quoted text counts as one position.

    A reference to a rule that may be empty counts as an optional part.
    """
    shape = measure_pattern(_TEXT.sub("a", grammar).replace(" ", ""))
    rules = read_rules(grammar)
    empty = {name for name, body in rules.items() if '""' in body or "?" in _TEXT.sub("a", body)}
    uses = sum(symbol in empty for body in rules.values() for symbol in _symbols(body))
    return Shape(shape.repeats + OPTIONAL_REPEATS * uses, shape.depth)


def _times(found: re.Match[str]) -> int:
    low, upper = int(found[1]), found[3]
    return max(1, min(int(upper) if upper else low, REPEATS_MAX))


def as_ebnf(grammar: str) -> str:
    """The grammar as vLLM hands it on: a grammar without any `::=` is in Lark's notation."""
    plain = _LARK_COMMENT.sub("", grammar)
    names = _LARK_RULE.findall(plain)
    if "::=" in plain or not names:
        return grammar
    root = "start" if "start" in names else names[0]
    rules = _LARK_RULE.sub(r"\1 ::=", _LARK_TEXT.sub(r'"\1"', plain))
    return f"root ::= {root}\n{rules}"


def read_rules(grammar: str) -> dict[str, str]:
    """The rules of an EBNF grammar by name."""
    starts = list(_RULE.finditer(grammar))
    ends = [*(match.start() for match in starts), len(grammar)][1:]
    return {match[1]: grammar[match.end() : end] for match, end in zip(starts, ends, strict=True)}


def ends_somewhere(rules: Mapping[str, str]) -> bool:
    """Whether `root` stands for any finite text; `root ::= root` does not, and stalls its call."""
    symbols = {name: list(_symbols(body)) for name, body in rules.items()}
    ending: set[str] = set()
    found = True
    while found and "root" not in ending:
        fresh = {
            name
            for name, body in symbols.items()
            if name not in ending and _ends(iter(body), ending, rules)
        }
        ending |= fresh
        found = bool(fresh)
    return "root" in ending or "root" not in rules


def _symbols(body: str) -> Iterator[str]:
    """The symbols of a rule: names as they are, texts as an empty string, and marks."""
    for match in _SYMBOL.finditer(body):
        if match["name"]:
            yield match["name"]
        elif match["text"]:
            yield ""
        elif match["range"]:
            yield "?" if match["range"].startswith("{0") else "+"
        elif match["mark"]:
            yield match["mark"]


def _ends(symbols: Iterator[str], ending: set[str], rules: Mapping[str, str]) -> bool:
    """Whether an alternative up to the closing bracket is finite."""
    before = last = True
    alternatives = False
    for symbol in symbols:
        if symbol in ("*", "?"):
            last = True
        elif symbol == "|":
            alternatives, before, last = alternatives or (before and last), True, True
        elif symbol == ")":
            break
        elif symbol != "+":
            before = before and last
            last = (
                _ends(symbols, ending, rules)
                if symbol == "("
                else symbol == "" or symbol in ending or symbol not in rules
            )
    return alternatives or (before and last)
