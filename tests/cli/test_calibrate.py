"""`serve-app calibrate` as a user meets it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
import yaml
from typer.testing import CliRunner, Result

from serve_app.cli.main import app
from serve_app.config.runtime import RuntimeConfig
from serve_app.core.call import Decision, Endpoint, Prompt, Reason, Record, Turn
from serve_app.observe.access_log import render_line
from serve_app.offline.learning.learnt import LEARNT_FROM_NOTHING, note_learnt
from serve_app.offline.learning.records import LabelledCall
from serve_app.routing.weights import read_weights, save_weights
from tests.routing.prompts import EASY_EN, HARD_EN

LABELLED = [{"prompt": text, "small_score": 1, "large_score": 1} for text in EASY_EN] + [
    {
        "messages": [{"role": "user", "content": text}],
        "small_score": 0,
        "large_score": 1.0,
    }
    for text in HARD_EN
]


def logged(score: float | None) -> dict[str, object]:
    reason = Reason.MODEL if score is None else Reason.SIMPLE
    decision = Decision("fast", "Qwen/fast", reason, score, 0.5)
    return render_line(Record("r", Endpoint.CHAT, stream=False, decision=decision))


def write(path: Path, *lines: object) -> str:
    rendered = [line if isinstance(line, bytes) else orjson.dumps(line) for line in lines]
    path.write_bytes(b"\n".join(rendered))
    return str(path)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["calibrate", *arguments])


def words(text: str) -> str:
    """The text whole, wherever the terminal breaks it."""
    return " ".join(text.replace("│", " ").split())


def test_a_table_and_lines_to_paste(tmp_path: Path) -> None:
    """The lines are a valid user_config, and the table says what the choice buys."""
    path = write(tmp_path / "calls.jsonl", *LABELLED)
    result = run(path, "--strong-ratio", "0.4", "--fast-price", "1", "--strong-price", "11")
    assert result.exit_code == 0
    for name in ("strong calls %", "cost of 1,000", "of strong's %", "gap closed %"):
        assert name in result.output
    pasted = yaml.safe_load(result.output[result.output.index("routing:") :])
    routing = RuntimeConfig.model_validate(pasted).routing
    assert routing.strong_ratio_target == 0.4
    low, high = routing.strong_score_min_bounds
    assert low < routing.strong_score_min < high


def test_json_for_programs(tmp_path: Path) -> None:
    """The same numbers, with the lines to paste in them."""
    path = write(tmp_path / "calls.jsonl", *LABELLED)
    answer = orjson.loads(run(path, "--quality-min", "0.95", "--json").stdout)
    assert answer["calls"] == len(LABELLED)
    assert answer["chosen"]["quality_ratio"] >= 0.95
    assert answer["chosen"] in answer["choices"]
    assert answer["choices"][-1]["quality_ratio"] == 1.0
    RuntimeConfig.model_validate(yaml.safe_load(answer["user_config"]))


def test_access_logs_hold_scores(tmp_path: Path) -> None:
    """Several logs count together; calls that named their tier are left out, and it is said."""
    first = write(tmp_path / "a.jsonl", *(logged(n / 10) for n in range(5)), logged(None))
    second = write(tmp_path / "b.jsonl", *(logged(n / 10) for n in range(5, 10)), b"")
    result = run(first, second, "--strong-ratio", "0.3")
    assert result.exit_code == 0
    assert "10 calls" in result.output
    assert "1 logged calls name their tier and have no score" in result.output
    threshold = yaml.safe_load(result.output[result.output.index("routing:") :])["routing"]
    assert 0.6 < threshold["strong_score_min"] <= 0.7


def test_equal_scores_are_told(tmp_path: Path) -> None:
    """Where a fixed threshold cannot keep the share, the user learns what does."""
    path = write(tmp_path / "calls.jsonl", *[{"prompt": "Hi!"}] * 9, {"prompt": HARD_EN[0]})
    result = run(path, "--strong-ratio", "0.5")
    assert "Many calls score the same" in result.output
    assert "strong_ratio_target: 0.5" in result.output


def test_without_a_budget_there_is_the_table(tmp_path: Path) -> None:
    """And the ways to name one."""
    result = run(write(tmp_path / "calls.jsonl", *LABELLED))
    assert result.exit_code == 0
    assert "--strong-ratio, --cost-max or --quality-min" in result.output
    assert "routing:" not in result.output


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"{", "not valid JSON at line 1 column"),
        (b"[]", "a JSON object is expected"),
        ({"text": "x"}, "expected `prompt` or `messages`, or a line of the access log"),
        ({"prompt": 3}, "Invalid value for 'prompt': expected a string or a list"),
        ({"messages": [{"content": "x"}]}, "'messages[0].role': expected a string"),
        ({"score": 2}, "score: expected a number from 0 to 1"),
        ({"score": "high"}, "score: expected a number from 0 to 1"),
        ({"prompt": "x", "small_score": 1}, "has only `small_score`"),
        (
            {"prompt": "x", "small_score": 1, "large_score": 7},
            "large_score: expected a number from 0 to 1",
        ),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: object, problem: str) -> None:
    """File, line, key and what belongs there."""
    path = write(tmp_path / "calls.jsonl", {"prompt": "Hi"}, b"", line)
    result = run(path)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"{path}, line 3: ")
    assert problem in result.stderr


def test_no_file_and_an_empty_one(tmp_path: Path) -> None:
    """Both are named."""
    assert "No such file" in run(str(tmp_path / "none.jsonl")).stderr
    assert "directory" in run(str(tmp_path)).stderr
    empty = run(write(tmp_path / "empty.jsonl", logged(None)))
    assert "has no prompt and no scored call" in empty.stderr


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--strong-ratio", "0.3", "--quality-min", "0.9"], "give one budget"),
        (["--cost-max", "3"], "both prices are needed"),
        (["--fast-price", "3"], "both prices are needed"),
        (["--strong-ratio", "30"], "less than or equal to 1"),
    ],
)
def test_options_that_do_not_fit_together(tmp_path: Path, options: list[str], problem: str) -> None:
    """A usage error says what to give."""
    result = run(write(tmp_path / "calls.jsonl", *LABELLED), *options)
    assert result.exit_code == 2
    assert problem in words(result.stderr)


def test_a_budget_that_cannot_be_kept(tmp_path: Path) -> None:
    """It is said why."""
    path = write(tmp_path / "calls.jsonl", {"prompt": "Hi"})
    assert "small_score" in run(path, "--quality-min", "0.9").stderr
    prices = ["--fast-price", "1", "--strong-price", "2"]
    assert "cheapest choice costs 1" in run(path, "--cost-max", "0.5", *prices).stderr


def test_a_feedback_log_is_calibrated_on(tmp_path: Path) -> None:
    """A directory of it, joined; calls without a label are left out where others have one."""

    def entry(kind: str, number: int, **fields: object) -> dict[str, object]:
        return {"kind": kind, "request_id": f"id-{number}", "time": "2026-01-01", **fields}

    calls = [
        entry("call", number, messages=[{"role": "user", "content": text}], score=0.1)
        for number, text in enumerate([*EASY_EN[:10], *HARD_EN[:10]])
    ]
    labels = [
        entry("label", n, small_score=int(n < 10), large_score=1, same=n < 10) for n in range(18)
    ]
    write(tmp_path / "calls_a.jsonl", *calls)
    result = run(str(tmp_path), "--strong-ratio", "0.5")
    assert "20 calls" in result.output
    assert "left out" not in result.output
    write(tmp_path / "calls_b.jsonl", *labels, entry("feedback", 3, right=True))
    result = run(str(tmp_path), "--quality-min", "0.9")
    assert result.exit_code == 0, result.output
    assert "18 calls" in result.output
    assert "2 calls of the feedback log have no label yet; left out." in result.output


def config_with(tmp_path: Path, prices: object) -> str:
    document = yaml.safe_load((Path(__file__).parents[2] / "configs/local.yaml").read_text())
    [router] = document["applications"][0]["deployments"]
    router["user_config"]["prices"] = prices
    return write(tmp_path / "serve.yaml", yaml.safe_dump(document).encode())


PRICES = {"tiers": {"fast": {"input": 1, "output": 2}, "strong": {"input": 10, "output": 20}}}


def test_prices_of_the_config(tmp_path: Path) -> None:
    """1,000 calls of the logged mean of tokens, or of the given tokens."""
    config = config_with(tmp_path, PRICES)
    lines = [logged(n / 10) | {"prompt_tokens": 100, "completion_tokens": 50} for n in range(10)]
    path = write(tmp_path / "calls.jsonl", *lines)
    choices = orjson.loads(run(path, "--config", config, "--json").stdout)["choices"]
    assert choices[0]["cost"] == pytest.approx(1000 * (100 * 1 + 50 * 2) / 1e6)
    assert choices[-1]["cost"] == pytest.approx(1000 * (100 * 10 + 50 * 20) / 1e6)
    given = ("--prompt-tokens", "1", "--output-tokens", "0", "--cost-max", "0.005")
    chosen = orjson.loads(run(path, "--config", config, "--json", *given).stdout)["chosen"]
    assert chosen["cost"] <= 0.005


@pytest.mark.parametrize(
    ("prices", "options", "problem"),
    [
        (PRICES, [], "do not say how many tokens"),
        (PRICES, ["--fast-price", "1"], "either a config or prices"),
        (PRICES, ["--cost-max", "1", "--strong-ratio", "0.5"], "give one budget"),
        ({"tiers": {"fast": {"input": 1, "output": 2}}}, [], "do not say how many tokens"),
        (
            {"tiers": {"fast": {"input": 1, "output": 2}}},
            ["--prompt-tokens", "1", "--output-tokens", "1"],
            "prices.tiers.strong is missing",
        ),
    ],
)
def test_what_the_config_cannot_say(
    tmp_path: Path, prices: object, options: list[str], problem: str
) -> None:
    """Each is named, with what to give."""
    path = write(tmp_path / "calls.jsonl", *LABELLED)
    result = run(path, "--config", config_with(tmp_path, prices), *options)
    assert result.exit_code == 2
    assert problem in words(result.output)


def test_tokens_need_a_config(tmp_path: Path) -> None:
    """They mean nothing to a price of 1,000 calls."""
    path = write(tmp_path / "calls.jsonl", *LABELLED)
    assert "prices of a config only" in words(run(path, "--prompt-tokens", "5").output)


def conversations() -> list[dict[str, object]]:
    """Bodies of conversations in turns, as clients send them, each with the turns before it."""
    lines = []
    for turn in range(1, 5):
        for number, text in enumerate([*EASY_EN[:6], *HARD_EN[:6]]):
            told = [
                {"role": "user", "content": f"{number} {text} " * 20},
                {"role": "assistant", "content": "Yes, of course. " * 100},
            ]
            last = {"role": "user", "content": (EASY_EN if turn % 2 else HARD_EN)[number]}
            lines.append({"messages": [*told * turn, last], "small_score": 0, "large_score": 1})
    return lines


GPU_S = ("--fast-gpu-s", "0.03", "--strong-gpu-s", "0.3")


def test_a_replay_shows_what_cached_conversations_save(tmp_path: Path) -> None:
    """A row for each weight, beside that of no weight, and the assumption below it."""
    path = write(tmp_path / "calls.jsonl", *conversations())
    result = run(path, "--strong-ratio", "0.4", "--residency-weights", "0.1,1", *GPU_S)
    assert result.exit_code == 0, result.output
    for name in ("GPU-s of reading", "saved %", "calls moved %", "mean score given up"):
        assert name in result.output
    assert "real caches forget, and save less" in words(result.output)
    answer = run(path, "--strong-ratio", "0.4", "--residency-weights", "0.1,1", *GPU_S, "--json")
    replays = orjson.loads(answer.stdout)["residency"]
    assert [each["weight"] for each in replays] == [0.0, 0.1, 1.0]
    assert 0 < replays[-1]["read_gpu_s"] <= replays[0]["read_gpu_s"]
    assert all(each["quality"] == each["strong_ratio"] for each in replays)


@pytest.mark.parametrize(
    ("lines", "options", "problem"),
    [
        (conversations, ("--residency-weights", "0.1", *GPU_S), "a budget"),
        (conversations, ("--residency-weights", "0.1", "--strong-ratio", "0.4"), "--fast-gpu-s"),
        (
            lambda: [logged(n / 10) for n in range(9)],
            ("--residency-weights", "0.1", "--strong-ratio", "0.4", *GPU_S),
            "no prompts long enough",
        ),
        (
            conversations,
            ("--residency-weights", "0.1,much", "--strong-ratio", "0.4", *GPU_S),
            "numbers from 0 to 10",
        ),
        (
            conversations,
            ("--residency-weights", "11", "--strong-ratio", "0.4", *GPU_S),
            "numbers from 0 to 10",
        ),
    ],
)
def test_a_replay_needs_prompts_and_prices(
    tmp_path: Path,
    lines: Callable[[], list[dict[str, object]]],
    options: tuple[str, ...],
    problem: str,
) -> None:
    """What is missing is named."""
    result = run(write(tmp_path / "calls.jsonl", *lines()), *options)
    assert result.exit_code != 0
    assert problem in words(result.output)


def test_no_threshold_is_chosen_by_calls_that_the_weights_know(tmp_path: Path) -> None:
    """Labelled calls that were learnt from are left out and counted; without labels they stay."""
    known = [LabelledCall(Prompt((Turn("user", text),)), 1, 1) for text in EASY_EN[:10]]
    weights = replace(read_weights(), learnt=note_learnt(known, LEARNT_FROM_NOTHING))
    save_weights(weights, tmp_path / "w.safetensors")
    use = ("--weights", str(tmp_path / "w.safetensors"))
    path = write(tmp_path / "calls.jsonl", *LABELLED)
    result = run(path, *use)
    assert f"{len(LABELLED) - 10} calls" in result.output
    assert "10 labelled calls are left out" in words(result.output)
    bare = write(tmp_path / "bare.jsonl", *[{"prompt": text} for text in EASY_EN[:10]])
    assert "10 calls" in run(bare, *use).output
    refused = run(write(tmp_path / "known.jsonl", *LABELLED[:10]), *use)
    assert refused.exit_code == 1
    assert "only calls that the weights have learnt from" in words(refused.output)
