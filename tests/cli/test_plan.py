"""`serve-app plan` as a user meets it."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
import yaml
from typer.testing import CliRunner, Result

from serve_app.cli.main import app

CONFIGS = Path(__file__).parents[2] / "configs"
TOO_BIG = """
applications:
  - name: llm
    import_path: serve_app.app:build
    args:
      tiers:
        - name: strong
          model_id: Qwen/Qwen2.5-72B-Instruct
          accelerator_type: H100
          engine: {tensor_parallel_size: 2, max_model_len: 32768}
"""


def run(*arguments: object) -> Result:
    """The command in this process."""
    return CliRunner().invoke(app, ["plan", *map(str, arguments)])


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_shipped_configs_fit(path: Path) -> None:
    """On the GPUs that they name, or on CPU; nothing is only a warning."""
    result = run(path, "--json")
    assert result.exit_code == 0, result.output
    plan = orjson.loads(result.stdout)
    assert (plan["ok"], plan["findings"]) == (True, [])
    rag = path.stem.endswith("-rag")
    chat = ["fast"] if path.stem == "local-rag" else ["fast", "strong"]
    assert [tier["tier"] for tier in plan["tiers"]] == chat + ["embed", "rerank"] * rag
    assert [tier["reads"] for tier in plan["tiers"]] == [False] * len(chat) + [True, True] * rag


def test_tables_for_people() -> None:
    """A table a tier with a column a quantisation, the cluster, and what the numbers are."""
    options = ("--quantization", "fp8,awq", "--nodes", 2, "--price-per-gpu-hour", 3)
    result = run(CONFIGS / "prod.yaml", *options)
    assert result.exit_code == 0, result.output
    for words in (
        "fast: Qwen2.5-7B (7.62 B parameters) on 1 x H100 (SXM5, 80 GB), TP 1",
        "strong: Qwen2.5-72B (72.7 B parameters) on 4 x H100 (SXM5, 80 GB), TP 4",
        "awq-int4",
        "price a month, most replicas",
        "fast 12, strong 3",
        "replicas.max of all tiers need 24 GPUs",
        "estimates from peak rates, not measurements",
    ):
        assert words in result.stdout


def test_the_cheapest_way_is_the_shipped_one() -> None:
    """configs/prod-fp8.yaml is what the comparison of configs/prod.yaml finds."""
    options = ("--quantization", "fp8", "--tensor-parallel", "1,2,4,8")
    result = run(CONFIGS / "prod.yaml", *options, "--json")
    compared = orjson.loads(result.stdout)
    shipped = orjson.loads(run(CONFIGS / "prod-fp8.yaml", "--json").stdout)
    ours = {
        tier["tier"]: [tier["variants"][0]["scheme"], tier["parallel"]] for tier in shipped["tiers"]
    }
    assert compared["cheapest"] == ours == {"fast": ["fp8", "TP 1"], "strong": ["fp8", "TP 2"]}
    hours = [
        tier["variants"][0]["cost"]["gpu_hours_a_million"]
        for plan in (compared, shipped)
        for tier in plan["tiers"]
        if tier["tier"] == "strong"
    ]
    assert hours[1] < 0.55 * hours[0]


def test_the_comparison_for_people() -> None:
    """A row for each way, the cheapest marked, and what the config costs against it."""
    options = ("--quantization", "fp8", "--tensor-parallel", "1,2,4,8", "--ttft-ms", 60)
    text = run(CONFIGS / "prod.yaml", *options).stdout
    assert "strong: cheapest within a TTFT of 60 ms is fp8 on TP 4" in text
    assert "the config, bf16 on TP 4: 1.51 times as much" in text
    assert text.count("cannot start") == 5
    never = run(CONFIGS / "prod.yaml", *options[:4], "--ttft-ms", 1).stdout
    assert "strong: none of these can be started within a TTFT of 1 ms" in never


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_tables_fit_a_terminal(path: Path) -> None:
    """100 columns, with every quantisation, all sizes, a price and nodes."""
    given = ("--quantization", "bf16,fp8,int8,awq,gptq", "--tensor-parallel", "1,2,4,8")
    lines = run(path, *given, "--nodes", 3, "--price-per-gpu-hour", 2.5).stdout.splitlines()
    tables = [line for line in lines if not line.startswith(("warning", "  mend", "with "))]
    assert max(map(len, tables)) <= 100


def test_the_docs_show_what_is_printed(tmp_path: Path) -> None:
    """The tables of docs/planning.md are those of today, and so is the message of a shortage."""
    text = (CONFIGS.parent / "docs" / "planning.md").read_text(encoding="utf-8")
    [_, shown] = text.split("$ serve-app plan configs/prod.yaml ", 1)
    options, _, shown = shown.partition("\n")
    result = run(CONFIGS / "prod.yaml", *options.split())
    printed = "\n".join(line.rstrip() for line in result.stdout.splitlines())
    assert shown.partition("```")[0].strip() == printed.strip()
    path = tmp_path / "big.yaml"
    path.write_text(TOO_BIG)
    [_, error] = run(path).stdout.split("error: ")
    assert "error: " + error.partition("Speeds")[0] in text


def test_prices_are_compared_where_that_is_asked_for() -> None:
    """Yours first, rented GPUs and tokens with the day of their price; JSON has the same."""
    options = ("--prices", "--price-per-gpu-hour", 2, "--api-price", "mine=1/2")
    result = run(CONFIGS / "prod.yaml", *options)
    assert result.exit_code == 0, result.output
    for words in ("your price", "RunPod, Secure Cloud", "2026-11-09", "mine", "GPUs pay from"):
        assert words in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 110
    tiers = orjson.loads(run(CONFIGS / "prod.yaml", *options, "--json").stdout)["prices"]
    assert [tier["tier"] for tier in tiers] == ["fast", "strong"]
    assert 0 < tiers[0]["tokens"][0]["pays_from_ratio"] < 1
    assert "GPUs pay from" not in run(CONFIGS / "prod.yaml").stdout
    wrong = run(CONFIGS / "prod.yaml", "--api-price", "mine")
    assert (wrong.exit_code, "NAME=PROMPT/OUTPUT" in wrong.stderr) == (2, True)


def test_no_speed_is_claimed_for_a_cpu() -> None:
    """It says so in place of the rows."""
    result = run(CONFIGS / "local.yaml")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("No speed is estimated for a CPU.") == 2
    assert "TTFT" not in result.stdout


def test_a_config_that_does_not_fit_fails(tmp_path: Path) -> None:
    """Exit code 1, what is missing, and what would fit; a card that is large enough passes."""
    path = tmp_path / "big.yaml"
    path.write_text(TOO_BIG)
    result = run(path)
    assert result.exit_code == 1
    assert "mend: tensor_parallel_size: 4; or quantization fp8" in result.stdout
    assert run(path, "--card", "H200").exit_code == 0
    assert run(path, "--card", "strong=B200").exit_code == 0
    assert run(path, "--quantization", "fp8").exit_code == 1, "the config stands as it is"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--card", "H"), "card 'H' is ambiguous: H20 or H100 or H100-NVL"),
        (("--card", "H100", "--card", "L4"), "two cards for all tiers"),
        (("--card", "slow=L4"), "there is no tier 'slow'"),
        (("--quantization", "int3"), "quantisation 'int3' is not known"),
        (("--tensor-parallel", "2,x"), "--tensor-parallel: 'x' is not a number from 1 to 64"),
        (("--tensor-parallel", "65"), "'65' is not a number"),
    ],
)
def test_options_that_make_no_sense(options: tuple[str, ...], words: str) -> None:
    """Exit code 2 and one line."""
    result = run(CONFIGS / "prod.yaml", *options)
    assert result.exit_code == 2
    assert words in result.stderr


def test_a_wrong_engine_key_is_found_first(tmp_path: Path) -> None:
    """A plan that passed over a typing error would plan something else."""
    path = tmp_path / "typo.yaml"
    path.write_text(TOO_BIG.replace("tensor_parallel_size", "tensor_paralel_size"))
    result = run(path)
    assert result.exit_code == 2
    assert "did you mean 'tensor_parallel_size'" in result.stderr


def test_variants_are_planned_beside_their_tiers(tmp_path: Path) -> None:
    """A blue-green switch needs the GPUs of both engines at the same time."""
    document = yaml.safe_load((CONFIGS / "prod.yaml").read_text())
    document["applications"][0]["args"]["variants"] = [{"tier": "fast", "name": "next"}]
    path = tmp_path / "variants.yaml"
    path.write_text(yaml.safe_dump(document))
    result = run(path, "--json")
    assert [tier["tier"] for tier in orjson.loads(result.stdout)["tiers"]] == [
        "fast",
        "strong",
        "fast--next",
    ]
