"""`serve-app learn` as a user meets it."""

from __future__ import annotations

from pathlib import Path
from random import Random

import orjson
import pytest
from typer.testing import CliRunner, Result

from serve_app.cli.main import app
from serve_app.config.cascade import ConfidenceConfig
from serve_app.routing.weights import read_weights


def run(*arguments: object) -> Result:
    """The command in this process."""
    return CliRunner().invoke(app, ["learn", *map(str, arguments)])


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Only the strong model knows about copper."""
    rng, lines = Random(1), []
    for number in range(150):
        copper = rng.random() < 0.4
        words = " ".join(f"w{rng.randrange(500)}" for _ in range(6))
        lines.append(
            {
                "prompt": f"{words} {'copper' if copper else 'silver'} {number}",
                "small_score": 0 if copper else rng.randrange(2),
                "large_score": 1 if copper else rng.randrange(2),
                "small_logprobs": [-2.0 * rng.random()],
            }
        )
    path = tmp_path_factory.mktemp("records") / "mine.jsonl"
    path.write_bytes(b"\n".join(map(orjson.dumps, lines)))
    return path


def test_a_whole_lesson(records: Path, tmp_path: Path) -> None:
    """A table with peers, a weights file that loads, a picture, and a refusal to go backwards."""
    out = tmp_path / "new" / "mine.safetensors"
    result = run(records, "--out", out, "--anchors", 20, "--folds", 3, "--prior", "none")
    assert result.exit_code == 0, result.stderr
    for words in ("learned, cross-validated", "prompt length", "random", "heuristic", "CPT80"):
        assert words in result.stdout
    assert "routing.weights" in result.stderr
    assert "confidence_min" in result.stdout
    assert '`routing.cascade: {"confidence_min":' in result.stderr
    assert read_weights(out).provenance.records == 150
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")

    measured = run("--evaluate", records, "--weights", out, "--json")
    assert measured.exit_code == 0, measured.stderr
    [name, *_] = orjson.loads(measured.stdout)["scorers"]
    assert name == f"weights: {out}"
    again = run(records, "--out", tmp_path / "o", "--anchors", 20, "--folds", 3, "--json")
    cascade = orjson.loads(again.stdout)
    assert cascade["cascade"]["confidence"].keys() == ConfidenceConfig.model_fields.keys()

    before = out.read_bytes()
    worse = records.with_name("few.jsonl")
    worse.write_bytes(b"\n".join(records.read_bytes().split(b"\n")[:60]))
    common = [worse, "--out", out, "--anchors", 0, "--folds", 3, "--prior", "none"]
    refused = run(*common)
    assert refused.exit_code == 1
    assert "learnt from 150 calls, and the new weights from 60" in refused.stderr
    assert "--force" in refused.stderr
    assert out.read_bytes() == before
    assert run(*common, "--force").exit_code == 0
    assert read_weights(out).provenance.records == 60


def test_shipped_weights_can_be_measured(records: Path) -> None:
    """On any file with both scores; nothing is written."""
    result = run("--evaluate", records)
    assert result.exit_code == 0, result.stderr
    assert "weights: shipped" in result.stdout
    assert list(records.parent.glob("*.safetensors")) == []


def test_heads_of_three_tiers(tmp_path: Path) -> None:
    """The file has a head for each, and the tables compare the ways to choose."""
    rng, lines = Random(1), []
    for number in range(80):
        scores = {"a": rng.randrange(2), "b": rng.randrange(2), "c": number % 3 > 0}
        lines.append({"prompt": f"w{rng.randrange(99)} {number}", "scores": scores})
    path, out = tmp_path / "mine.jsonl", tmp_path / "mine.safetensors"
    path.write_bytes(b"\n".join(map(orjson.dumps, lines)))
    common = ["--tiers", "a,b,c", "--prices", "1,2,9"]
    few = ["--anchors", 4, "--folds", 2, "--prior", "none", "--strength", 1]
    result = run(path, *common, *few, "--out", out)
    assert result.exit_code == 0, result.stderr
    for words in ("P(right) less price", "range divided evenly", "mixture at random"):
        assert words in result.stdout
    assert read_weights(out).heads == ("a", "b", "c")
    measured = orjson.loads(run("--evaluate", path, "--weights", out, *common, "--json").stdout)
    assert [tier["name"] for tier in measured["tiers"]["tiers"]] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "either RECORDS to learn from or --evaluate FILE"),
        (["a.jsonl", "--evaluate", "b.jsonl"], 2, "either RECORDS to learn from"),
        (["nowhere.jsonl"], 1, "nowhere.jsonl: No such file"),
        (["--evaluate", "nowhere.jsonl"], 1, "nowhere.jsonl: No such file"),
        (["x.jsonl", "--pair", "one"], 2, "is not SMALL,LARGE"),
        (["x.jsonl", "--folds", "1"], 2, "--folds"),
        (["x.jsonl", "--tiers", "a,b"], 2, "is not 3 to 8 different names"),
        (["x.jsonl", "--tiers", "a,b,a"], 2, "is not 3 to 8 different names"),
        (["x.jsonl", "--prices", "1,2,3"], 2, "a price for each of --tiers"),
        (["x.jsonl", "--tiers", "a,b,c", "--prices", "1,x,3"], 2, "a price for each of --tiers"),
        (["x.jsonl", "--tiers", "a,b,c", "--prices", "1,1,1"], 2, "not the same for all"),
        (["--evaluate", "RECORDS", "--tiers", "a,b,c"], 2, "have heads for fast, strong"),
        (["x.jsonl", "--dataset", "no.jsonl"], 1, "no.jsonl: No such file"),
        (["RECORDS", "--prior", "no.safetensors"], 1, "no.safetensors: No such file"),
        (["--evaluate", "RECORDS", "--weights", __file__], 1, "not a safetensors file"),
    ],
)
def test_wrong_arguments(records: Path, arguments: list[str], code: int, words: str) -> None:
    """One message, no traceback."""
    result = run(*(records if word == "RECORDS" else word for word in arguments))
    assert (result.exit_code, result.stdout) == (code, "")
    message = " ".join(result.stderr.replace("│", " ").split())
    assert words in message
    assert "Traceback" not in message


def test_what_cannot_take_the_weights_is_refused_before_learning(
    records: Path, tmp_path: Path
) -> None:
    """A directory in the way of the picture, and a file that holds no weights to compare with."""
    (tmp_path / "mine.png").mkdir()
    refused = run(records, "--out", tmp_path / "mine.safetensors")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "mine.png cannot be written: Is a directory" in refused.stderr
    other = tmp_path / "notes.safetensors"
    other.write_text("notes")
    refused = run(records, "--out", other)
    assert (refused.exit_code, refused.stdout, other.read_text()) == (1, "", "notes")


def test_a_longer_log_makes_a_new_lesson(records: Path, tmp_path: Path) -> None:
    """The lesson before was learnt from a part of it, and is judged on what was kept from it."""
    lines, log = records.read_bytes().split(b"\n"), tmp_path / "log.jsonl"
    out = tmp_path / "w.safetensors"
    for count in (100, 150):
        log.write_bytes(b"\n".join(lines[:count]))
        lesson = run(log, "--out", out, "--anchors", 0, "--folds", 2, "--prior", "none")
        assert lesson.exit_code == 0, lesson.stderr
        assert read_weights(out).provenance.records == count
    assert "calls that neither has learnt from: APGR" in lesson.stderr
