"""What is said of the models, as numbers, as tables and as a picture."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import orjson
import pytest
from PIL import Image
from rich.console import Console

from serve_app.offline.evaluate.answers import GradedAnswer
from serve_app.offline.evaluate.checks import parse_check
from serve_app.offline.evaluate.dataset import Dataset, Item
from serve_app.offline.evaluate.evaluation_report import print_report, render_json
from serve_app.offline.evaluate.picture import draw_picture
from serve_app.offline.evaluate.summary import ModelSummary, Summary, summarize
from tests.offline.evaluate.fakes import SETTINGS

CHECK = parse_check({"type": "exact", "value": "x"})
EASY, HARD = {"level": "easy"}, {"level": "hard", "skill": "logic"}
ITEMS = [Item(str(n), [], CHECK, EASY if n < 6 else HARD) for n in range(10)]
DATASET = Dataset("sums", "0" * 64, ITEMS)


def answer(model: str, marks: str, tiers: str) -> list[GradedAnswer]:
    """Marks are `+`, `-` and `!` for an error; tiers are `f`, `m`, `s` and `.` for none told."""
    named = {"f": "fast", "m": "middle", "s": "strong", ".": None}
    return [
        GradedAnswer(str(n), model, error="status 500")
        if mark == "!"
        else GradedAnswer(
            str(n), model, "x", mark == "+", named[tier], ttft_s=n / 10, total_s=float(n)
        )
        for n, (mark, tier) in enumerate(zip(marks, tiers, strict=True))
    ]


FAST = answer("fast", "+++++-----", "ffffffffff")
STRONG = answer("strong", "+++++++++-", "ssssssssss")
AUTO = answer("auto", "++++++++--", "ffffffssff")


def build(
    answers: Sequence[GradedAnswer],
    models: Sequence[str] = ("fast", "strong", "auto"),
    strong: str = "strong",
) -> tuple[Summary, dict[str, ModelSummary]]:
    """The summary, and its models by name."""
    summary = summarize(DATASET, models, strong, SETTINGS, answers)
    return summary, {model.model: model for model in summary.models}


def test_a_model_is_compared_with_tiers_mixed_at_its_price() -> None:
    """Whatever their number; a tier without a price, or a model that names no tier, has no cost."""
    middle = answer("middle", "++++++++--", "mmmmmmmmmm")
    mixed = answer("auto", "+++++++++-", "ffffmmmmss")
    prices = {"fast": 1.0, "middle": 2.0, "strong": 10.0}
    names = ("fast", "middle", "strong", "auto")
    answers = [*FAST, *middle, *STRONG, *mixed]
    found = {
        model.model: (model.cost, model.same_cost_ratio)
        for model in summarize(DATASET, names, "strong", SETTINGS, answers, prices).models
    }
    assert found["middle"] == (2.0, pytest.approx(0.8))
    assert found["auto"] == (pytest.approx(3.2), pytest.approx(0.8 + 0.1 * 1.2 / 8))
    del prices["strong"]
    some = summarize(DATASET, names, "strong", SETTINGS, answers, prices).models
    assert [model.cost for model in some] == [1.0, 2.0, None, None]
    unnamed = answer("auto", "+++++", ".....")
    [untold] = summarize(DATASET, ("auto",), "strong", SETTINGS, unnamed, prices).models
    assert (untold.cost, untold.same_cost_ratio) == (None, None)


def test_the_models() -> None:
    """Accuracy, the paired difference, strong calls, and what a coin would get."""
    summary, models = build([*FAST, *STRONG, *AUTO])
    auto = models["auto"]
    assert auto.accuracy is not None
    assert auto.difference is not None
    assert (auto.accuracy.right, auto.accuracy.total, auto.accuracy.ratio) == (8, 10, 0.8)
    assert auto.difference.mean == pytest.approx(-0.1)
    assert (auto.strong_ratio, models["fast"].strong_ratio) == (0.2, 0.0)
    assert auto.random_mix_ratio == pytest.approx(0.5 + 0.2 * 0.4)
    assert models["strong"].difference is None
    assert models["strong"].random_mix_ratio is None
    assert (auto.ttft_p50_s, auto.ttft_p95_s, auto.total_p50_s, auto.total_p95_s) == (
        *(0.4, 0.9),
        *(4.0, 9.0),
    )
    assert summary.errors == 0


def test_errors_are_no_answers() -> None:
    """They are counted, and stay out of accuracy and comparison; a call never made is one too."""
    fast = answer("fast", "!!+++-----", "ffffffffff")[:-1]
    summary, models = build([*fast, *STRONG])
    accuracy = models["fast"].accuracy
    assert accuracy is not None
    assert (accuracy.right, accuracy.total, models["fast"].errors) == (3, 7, 3)
    assert models["auto"].accuracy is None
    assert models["auto"].difference is None
    assert summary.errors == 13


def test_other_answers_of_the_file_do_not_count() -> None:
    """Of questions or models that were not asked for this time."""
    other = [GradedAnswer("elsewhere", "fast", "x", False), GradedAnswer("0", "other", "x", False)]
    _, models = build([*FAST, *other])
    accuracy = models["fast"].accuracy
    assert accuracy is not None
    assert accuracy.total == 10
    assert "other" not in models


def test_tiers_may_have_any_name() -> None:
    """A strong call is one that the tier of the strong model answers."""
    answers = [
        *answer("qwen-7b", "+++++-----", "ffffffffff"),
        *answer("qwen-72b", "++++++++++", "ssssssssss"),
        *AUTO,
    ]
    _, models = build(answers, ("qwen-7b", "qwen-72b", "auto"), "qwen-72b")
    assert models["qwen-72b"].strong_ratio == 1.0
    assert models["auto"].strong_ratio == 0.2
    assert models["auto"].random_mix_ratio == pytest.approx(0.6)


def test_auto_alone() -> None:
    """The share of strong calls is told, but nothing is compared."""
    _, models = build(AUTO, ["auto"])
    assert models["auto"].strong_ratio == 0.2
    assert models["auto"].difference is None
    assert models["auto"].random_mix_ratio is None


def test_the_tags() -> None:
    """Accuracy by every key and value; a question without the key is in none."""
    summary, _ = build([*FAST, *AUTO], ["fast", "auto"])
    counts = {
        (key, value, model): (share.right, share.total)
        for key, values in summary.tags.items()
        for value, shares in values.items()
        for model, share in shares.items()
    }
    assert counts == {
        ("level", "easy", "fast"): (5, 6),
        ("level", "easy", "auto"): (6, 6),
        ("level", "hard", "fast"): (0, 4),
        ("level", "hard", "auto"): (2, 4),
        ("skill", "logic", "fast"): (0, 4),
        ("skill", "logic", "auto"): (2, 4),
    }


def print_rows(summary: Summary) -> list[list[str]]:
    """What a terminal shows, by row and column."""
    console = Console(width=110)
    with console.capture() as captured:
        print_report(console, summary)
    return [re.split(" {2,}", line.strip()) for line in captured.get().splitlines()]


def test_the_tables() -> None:
    """Every model and tag is there, in per cent, with its interval."""
    summary, _ = build([*FAST, *STRONG, *AUTO])
    rows = print_rows(summary)
    assert rows[0] == ["sums: 10 questions"]
    assert ["fast", "strong", "auto"] in rows
    columns = {row[0]: row[-1] for row in rows}
    assert columns["right %"] == "80.0 (49.0 to 94.3), n=10"
    assert columns["right % vs strong"] == "-10.0 (-40.0 to +20.2)"
    assert columns["p (McNemar)"] == "1.000"
    assert columns["strong calls %"] == "20.0"
    assert columns["random mix, right %"] == "58.0"
    assert columns["TTFT p50 / p95 ms"] == "400 / 900"
    assert columns["total p50 / p95 ms"] == "4,000 / 9,000"
    assert columns["errors"] == "0"
    assert ["Right %, by level"] in rows
    assert columns["hard"] == "50.0 (15.0 to 85.0), n=4"


def test_the_tables_without_answers() -> None:
    """Nothing is known, and nothing is made up."""
    summary, _ = build([])
    columns = {row[0]: row[-1] for row in print_rows(summary)}
    assert columns["right %"] == columns["right % vs strong"] == "-"
    assert columns["total p50 / p95 ms"] == "- / -"
    assert columns["errors"] == "10"


def test_the_json() -> None:
    """It holds what the tables show."""
    summary, _ = build([*FAST, *STRONG, *AUTO])
    document = orjson.loads(render_json(summary))
    assert document["settings"]["max_tokens"] == 64
    assert document["models"][2]["accuracy"]["ratio"] == 0.8
    assert document["models"][2]["difference"]["p"] == 1.0
    assert document["tags"]["level"]["easy"]["fast"]["total"] == 6


@pytest.mark.parametrize("answers", [[*FAST, *STRONG, *AUTO], [*FAST], []])
def test_the_picture(tmp_path: Path, answers: Sequence[GradedAnswer]) -> None:
    """A PNG, however little there is to be drawn; each model has its colour."""
    summary, models = build(answers)
    draw_picture(summary, tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as image:
        assert (image.format, image.size) == ("PNG", (960, 640))
        colours = image.convert("RGB").getcolors(1_000_000)
    assert colours is not None
    drawn = {colour for _, colour in colours}
    shown = [model for model in models.values() if model.accuracy is not None]
    expected = [(0, 114, 178), (213, 94, 0), (0, 158, 115)]
    assert [colour in drawn for colour in expected] == [at < len(shown) for at in range(3)]
