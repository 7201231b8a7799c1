"""The environments of other projects' routers."""

from __future__ import annotations

from pathlib import Path

import pytest

from serve_app.offline.bench.bench_errors import PeerUnavailable
from serve_app.offline.bench.peers import LITELLM, command_of, find_venv, install


def test_an_environment_is_named_after_its_package(tmp_path: Path) -> None:
    """Another version gets another environment."""
    (script,) = command_of(LITELLM, "litellm", tmp_path)
    name = Path(script).relative_to(tmp_path).parts[0]
    assert name == LITELLM.replace("[proxy]", "").replace("==", "-")


def test_a_package_that_is_there_is_not_installed_again(tmp_path: Path) -> None:
    """Nothing is asked of a registry then."""
    venv = find_venv("no-such-package==1", tmp_path)
    venv.mkdir()
    (venv / "installed").touch()
    install("no-such-package==1", tmp_path)
    assert [path.name for path in venv.iterdir()] == ["installed"]


def test_a_package_that_cannot_be_installed_is_named(tmp_path: Path) -> None:
    """The error has the end of pip's output in it; the next run tries again."""
    missing = str(tmp_path / "missing.whl")
    with pytest.raises(PeerUnavailable, match=r"(?s)could not be installed.*missing\.whl"):
        install(missing, tmp_path)
    assert not (find_venv(missing, tmp_path) / "installed").exists()
