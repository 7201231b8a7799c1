"""`serve-app doctor` as an operator meets it."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
import yaml
from typer.testing import CliRunner, Result

from serve_app.cli.main import app

LOCAL = Path(__file__).parents[2] / "configs" / "local.yaml"


def run(*arguments: object) -> Result:
    """The command in this process."""
    return CliRunner().invoke(app, ["doctor", *map(str, arguments)])


def test_the_embedded_default_is_well() -> None:
    """Versions, models and disks are; warnings do not fail, unless they are to."""
    result = run(LOCAL)
    assert result.exit_code == 0, result.stdout
    assert "ok      model of strong" in result.stdout
    assert "0 errors" in result.stdout
    warned = "WARNING" in result.stdout
    assert run(LOCAL, "--strict").exit_code == int(warned)


def test_every_fault_says_why_and_how_to_mend_it(tmp_path: Path) -> None:
    """A model that is not there is an error, in JSON as in lines."""
    document = yaml.safe_load(LOCAL.read_text())
    document["applications"][0]["args"]["tiers"][0] |= {
        "model_source": "/no/such/model",
        "sha256sums": None,
    }
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump(document))
    result = run(path, "--json")
    assert result.exit_code == 1
    findings = orjson.loads(result.stdout)
    [error] = [found for found in findings if found["level"] == "error"]
    assert error["check"] == "model of fast"
    assert "/no/such/model" in error["what"]
    assert error["why"]
    assert error["mend"]
    assert "mend: Copy the model to this directory" in run(path).stdout


@pytest.mark.parametrize("arguments", [("nowhere.yaml",), (LOCAL, "--address", "127.0.0.1:1")])
def test_what_cannot_be_looked_at(arguments: tuple[object, ...]) -> None:
    """No config is a wrong call; no cluster is a finding. No traceback either way."""
    if len(arguments) > 1:
        pytest.importorskip("ray")
    result = run(*arguments)
    assert result.exit_code == (2 if len(arguments) == 1 else 1)
    assert "Traceback" not in result.output
