"""The documentation as a site."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = (
    "mkdocs.yml",
    "docs",
    "tools",
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "CHANGELOG.md",
)


pytestmark = pytest.mark.slow


def build(root: Path, site: Path) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--site-dir",
        str(site),
    ]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120)


def test_every_page_is_built_and_no_link_is_broken(tmp_path: Path) -> None:
    """Every page of docs/ is in the site, and links and anchors lead somewhere."""
    done = build(ROOT, tmp_path)
    assert done.returncode == 0, done.stderr
    pages = {page.relative_to(ROOT / "docs").with_suffix("") for page in ROOT.glob("docs/**/*.md")}
    built = {page.relative_to(tmp_path).with_suffix("") for page in tmp_path.glob("**/*.html")}
    assert pages <= built
    assert "<table>" in (tmp_path / "index.html").read_text()


@pytest.mark.parametrize("link", ["missing.md", "../serve_app/missing.py", "routing.md#missing"])
def test_a_broken_link_is_an_error(tmp_path: Path, link: str) -> None:
    """To a page, to a file of the project, or to a heading."""
    root = tmp_path / "project"
    for name in SOURCES:
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        root.mkdir(exist_ok=True)
        copy(source, root / name)
    for name in ("cluster", "serve_app", "configs", "LICENSE"):
        (root / name).symlink_to(ROOT / name)
    page = root / "docs/api.md"
    page.write_text(page.read_text() + f"\n[broken]({link})\n")
    done = build(root, tmp_path / "site")
    assert done.returncode != 0
    assert "missing" in done.stderr
