"""`serve-app verify` and `serve-app convert`: what they print, and how they exit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from serve_app import demo
from serve_app.cli.main import app
from serve_app.model_files.sums import SUMS_NAME

CLI = CliRunner()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The fast demo model, without sums."""
    directory = tmp_path / "model"
    shutil.copytree(demo.locate("fast"), directory)
    (directory / SUMS_NAME).unlink(missing_ok=True)
    return directory


def test_a_good_model_gets_sums(model: Path) -> None:
    """Written once, held to from then on, and never overwritten."""
    first = CLI.invoke(app, ["verify", str(model), "--write-sums"])
    assert (first.exit_code, first.stderr) == (0, "")
    assert first.stdout.startswith(f"{model}: good\n")
    assert "written to" in first.stdout
    second = CLI.invoke(app, ["verify", str(model)])
    assert second.exit_code == 0
    assert "by SHA-256" in second.stdout
    third = CLI.invoke(app, ["verify", str(model), "--write-sums"])
    assert (third.exit_code, third.stdout) == (2, "")
    assert "remove the file first" in third.stderr


def test_a_bad_model_is_told_apart(model: Path) -> None:
    """Exit code 1, no sums, and each finding with its remedy."""
    (model / "pytorch_model.bin").touch()
    result = CLI.invoke(app, ["verify", str(model), "--write-sums"])
    assert result.exit_code == 1
    assert "NOT to be served" in result.stdout
    assert "error: pytorch_model.bin: a pickled file by its name" in result.stdout
    assert "mend: remove it" in result.stdout
    assert not (model / SUMS_NAME).exists()


def test_the_report_as_json(model: Path) -> None:
    """For scripts: the same in fields."""
    (model / "config.json").unlink()
    result = CLI.invoke(app, ["verify", str(model), "--json"])
    report = json.loads(result.stdout)
    assert (result.exit_code, report["ok"], report["directory"]) == (1, False, str(model))
    assert report["findings"][0].keys() == {"where", "what", "mend", "fatal"}


def test_given_sums_take_the_place_of_the_directorys(model: Path, tmp_path: Path) -> None:
    """A list from elsewhere, as a vendor publishes it."""
    CLI.invoke(app, ["verify", str(model), "--write-sums"])
    sums = (model / SUMS_NAME).rename(tmp_path / "sums")
    assert CLI.invoke(app, ["verify", str(model), "--sums", str(sums)]).exit_code == 0
    (model / "config.json").write_text((model / "config.json").read_text() + " ")
    result = CLI.invoke(app, ["verify", str(model), "--sums", str(sums)])
    assert result.exit_code == 1
    assert "config.json: SHA-256 differs: expected " in result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{tmp}/nowhere"], "nowhere: not a directory"),
        (["{tmp}/model", "--sums", "{tmp}/nowhere"], "nowhere: cannot be read"),
        (["{tmp}/model", "--sums", "{tmp}/model/config.json"], "config.json: line 1"),
        (["{tmp}/model", "--sums", "x", "--write-sums"], "use either --sums"),
    ],
)
def test_what_cannot_be_checked(
    model: Path, tmp_path: Path, arguments: list[str], words: str
) -> None:
    """Exit code 2 and one line."""
    words_given = [argument.format(tmp=tmp_path) for argument in arguments]
    result = CLI.invoke(app, ["verify", *words_given])
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in result.stderr


def test_convert_says_what_it_made(model: Path, tmp_path: Path) -> None:
    """The report on the new directory; a second time there is nothing to write to."""
    arguments = ["convert", str(model), str(tmp_path / "dest")]
    first = CLI.invoke(app, arguments)
    assert first.exit_code == 0
    assert f"{tmp_path / 'dest'}: good" in first.stdout
    second = CLI.invoke(app, arguments)
    assert second.exit_code == 1
    assert "Nothing was written." in second.stderr
    assert CLI.invoke(app, ["convert", str(tmp_path / "nowhere"), "x"]).exit_code == 2
