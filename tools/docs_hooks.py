"""Hooks of MkDocs: pages that lie outside docs/, and links to files that are no pages."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
}
"""Files of the project's root that are pages of the site, by the address that they get there."""

_LINK = re.compile(
    r"(?<!!)\[(?P<text>[^\]]*)\]\((?P<target>(?!\w+:|#)[^)\s#]+)(?P<anchor>#[^)\s]*)?\)"
)
_IMAGE = re.compile(r"(?P<text>!\[[^\]]*\])\((?P<target>(?!\w+:)[^)\s]+)\)")
_DECISIONS = "decisions/index.md"


def on_files(files: Files, *, config: Any) -> Files:
    """Add the pages that lie outside docs/, and a list of the decisions."""
    for name, address in OUTSIDE.items():
        files.append(File.generated(config, address, content=(ROOT / name).read_text()))
    files.append(File.generated(config, _DECISIONS, content="\n".join(_list_decisions())))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    """Let links follow the files into the site; one to a file that is no page becomes its name.

    Raises:
        PluginError: a link leads to a file that does not exist.
    """
    source = next((n for n, a in OUTSIDE.items() if a == page.file.src_uri), None)
    folder = "" if source else posixpath.dirname(f"docs/{page.file.src_uri}")
    markdown = _IMAGE.sub(lambda image: _place(image, folder, page.file.src_uri), markdown)
    return _LINK.sub(lambda link: _follow(link, folder, page.file.src_uri), markdown)


def _place(image: re.Match[str], folder: str, page: str) -> str:
    path = posixpath.normpath(posixpath.join(folder, image["target"])).removeprefix("docs/")
    return f"{image['text']}({posixpath.relpath(path, posixpath.dirname(page) or '.')})"


def _follow(link: re.Match[str], folder: str, page: str) -> str:
    path = posixpath.normpath(posixpath.join(folder, link["target"]))
    address = _address(path)
    if address is None:
        if not (ROOT / path).exists():
            raise PluginError(f"{page}: no file {path}, which a link names")
        return f"{link['text']} (`{path}`)"
    relative = posixpath.relpath(address, posixpath.dirname(page) or ".")
    return f"[{link['text']}]({relative}{link['anchor'] or ''})"


def _address(path: str) -> str | None:
    """Where a file of the project is found in the site; None where it is no page of it."""
    if path == "docs/decisions":
        return _DECISIONS
    if path in OUTSIDE:
        return OUTSIDE[path]
    if path == f"docs/{_DECISIONS}":
        return _DECISIONS
    inside = path.removeprefix("docs/")
    return inside if inside != path and (ROOT / path).is_file() else None


def _list_decisions() -> Iterator[str]:
    yield "# Decisions\n"
    for page in sorted((ROOT / "docs/decisions").glob("0*.md")):
        title = page.read_text().splitlines()[0].removeprefix("# ")
        yield f"- [{title}]({page.name})"
