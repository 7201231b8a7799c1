"""Secrets are compared in constant time, by construction."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from serve_app.access.digest import KeyDigest, Pepper
from serve_app.access.keys import create_key

ACCESS = Path(__file__).parents[2] / "serve_app/access"
SECRETS = {"digest", "old_digest", "pepper", "secret", "_secret", "_key", "_value"}
SLOTS_OF_DIGEST = {"_value"}


def test_a_digest_depends_on_key_and_pepper() -> None:
    """The same key and pepper give the same digest, and no other pair does."""
    one, other = Pepper(b"a" * 32), Pepper(b"b" * 32)
    key = create_key()
    assert one.digest(key.text) == Pepper(b"a" * 32).digest(key.text)
    assert one.digest(key.text) != one.digest(create_key().text)
    assert one.digest(key.text) != other.digest(key.text)
    assert one.check == Pepper(b"a" * 32).check
    assert one.check != other.check


def test_a_digest_cannot_be_looked_up_or_printed() -> None:
    """A dict or a set would compare bytes by ==, and a log would show them."""
    digest = Pepper(b"a" * 32).digest("key")
    with pytest.raises(TypeError, match="unhashable"):
        hash(digest)
    assert digest.hex() not in repr(digest)
    assert digest != digest.hex()


def test_the_bytes_of_a_digest_meet_only_compare_digest() -> None:
    """No other code than hmac.compare_digest and the text for the store reads them."""
    tree = ast.parse((ACCESS / "digest.py").read_text())
    [cls] = [
        node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "KeyDigest"
    ]
    readers = {
        function.name: ast.unparse(function.body[-1])
        for function in cls.body
        if isinstance(function, ast.FunctionDef) and "_value" in ast.unparse(function)
    }
    assert readers == {
        "__init__": "self._value = value",
        "__eq__": "return hmac.compare_digest(self._value, other._value)",
        "hex": "return self._value.hex()",
    }


def test_no_other_file_reads_the_bytes_of_a_digest() -> None:
    """Outside its class, a digest is only compared as a whole."""
    outside = [path for path in ACCESS.rglob("*.py") if path.name != "digest.py"]
    assert outside
    assert [path.name for path in outside if "_value" in names(path)] == []


def test_secrets_are_compared_only_as_digests() -> None:
    """Each == whose side is named like a secret is in the files that compare digests as such."""
    found = {path.name for path in ACCESS.rglob("*.py") for _ in compared_secrets(path)}
    assert found == {"key_admin.py", "key_ring.py", "stored_key.py"}
    assert isinstance(Pepper(b"a" * 32).check, KeyDigest)


def names(path: Path) -> set[str]:
    """The attributes that a file reads."""
    tree = ast.walk(ast.parse(path.read_text()))
    return {node.attr for node in tree if isinstance(node, ast.Attribute)}


def compared_secrets(path: Path) -> list[ast.Compare]:
    """The comparisons of a file by value whose sides are named like a secret."""
    return [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Compare)
        and not all(isinstance(op, ast.Is | ast.IsNot) for op in node.ops)
        and any(last_name(side) in SECRETS for side in (node.left, *node.comparators))
    ]


def last_name(side: ast.expr) -> str | None:
    """`digest` of `self.digest` and of `digest`."""
    return side.attr if isinstance(side, ast.Attribute) else getattr(side, "id", None)
