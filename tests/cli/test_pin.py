"""`serve-app pin` as a user meets it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from serve_app import demo
from serve_app.cli.main import app
from serve_app.config.reader import read_serve_config
from serve_app.config.tiers import TierConfig
from serve_app.config.tls import CERTIFICATE
from serve_app.model_files.files import list_files
from serve_app.model_files.integrity import check_sums
from tests.offline.checkpoints.test_checkout import COMMIT, OTHER, write_cache, write_download

CONFIGS = Path(__file__).parents[2] / "configs"


def run(*arguments: object) -> Result:
    """The command in this process."""
    return CliRunner().invoke(app, ["pin", *map(str, arguments)])


def tiers_of(path: Path) -> dict[str, TierConfig]:
    return {tier.name: tier for tier in read_serve_config(path).app.tiers}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The Qwen3 config, whose fast model comes from the hub and whose strong one is a directory."""
    path = tmp_path / "prod.yaml"
    text = (CONFIGS / "prod-qwen3.yaml").read_text()
    path.write_text(
        text.replace("# model_source: /models/Qwen3-32B", f"model_source: {tmp_path}/m")
    )
    return path


def write_model(directory: Path) -> Path:
    """A model with its files, as a download leaves it."""
    shutil.copytree(demo.locate("fast"), directory)
    (directory / "SHA256SUMS").unlink()
    (directory / "README.md").write_text("words")
    return write_download(directory, COMMIT)


def test_a_directory_is_pinned_by_its_sums(config: Path, tmp_path: Path) -> None:
    """And by its commit, where a download has noted it; a replica starts with exactly these."""
    model = write_model(tmp_path / "m")
    result = run(config, "--tier", "strong")
    assert result.exit_code == 0, result.output
    strong = tiers_of(config)["strong"]
    assert strong.engine["revision"] == COMMIT
    assert isinstance(strong.sha256sums, dict)
    assert check_sums(model, strong.sha256sums, list_files(model)) == []
    assert "README.md" not in strong.sha256sums
    assert "model.safetensors" in strong.sha256sums
    again = config.read_text()
    assert run(config, "--tier", "strong").exit_code == 0
    assert config.read_text() == again


def test_a_model_of_the_hub_is_pinned_by_its_commit(config: Path, tmp_path: Path) -> None:
    """The newest in the cache, after the old commit is taken out; sums need a directory."""
    write_cache(tmp_path / "hub", OTHER)
    kept = [line for line in config.read_text().splitlines(True) if "revision:" not in line]
    config.write_text("".join(kept))
    result = run(config, "--tier", "fast", "--cache", tmp_path / "hub")
    assert result.exit_code == 0, result.output
    fast = tiers_of(config)["fast"]
    assert (fast.engine["revision"], fast.sha256sums) == (OTHER, None)
    assert f"fast: engine.revision: {OTHER}" in result.stderr


def test_a_directory_elsewhere_stands_for_that_of_the_nodes(config: Path, tmp_path: Path) -> None:
    """`--from` says where the files are here; the config keeps the nodes' path."""
    write_model(tmp_path / "here")
    result = run(config, "--tier", "strong", "--from", tmp_path / "here", "--dry-run")
    assert result.exit_code == 0, result.output
    document = yaml.safe_load(result.stdout)
    strong = document["applications"][0]["args"]["tiers"][1]
    assert strong["model_source"] == f"{tmp_path}/m"
    assert "model.safetensors" in strong["sha256sums"]
    assert tiers_of(config)["strong"].sha256sums is None


def test_a_variant_is_pinned_where_its_tier_does_not_do_it(config: Path, tmp_path: Path) -> None:
    """One of another model; the one with its tier's files and arguments stays as it is."""
    write_model(tmp_path / "next")
    variants = (
        "      variants:\n"
        "        - {tier: strong, name: same, max_queued_calls: 8}\n"
        "        - tier: strong\n"
        "          name: next\n"
        f"          model_source: {tmp_path}/next\n"
        "          engine:\n"
        "            tensor_parallel_size: 2\n"
    )
    config.write_text(
        config.read_text().replace("      router:\n", f"{variants}      router:\n", 1)
    )
    result = run(config, "--tier", "strong--next")
    assert result.exit_code == 0, result.output
    deployed = {tier.name: tier for tier in read_serve_config(config).app.deployed}
    assert deployed["strong--next"].engine["revision"] == COMMIT
    assert "model.safetensors" in (deployed["strong--next"].sha256sums or {})
    assert deployed["strong--same"].sha256sums is None
    assert run(config, "--tier", "strong--same").exit_code == 2


def test_a_demo_model_has_its_sums_already(tmp_path: Path) -> None:
    """The file stays as it is."""
    path = tmp_path / "local.yaml"
    shutil.copy(CONFIGS / "local.yaml", path)
    assert run(path).exit_code == 0
    assert path.read_text() == (CONFIGS / "local.yaml").read_text()


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--tier", "slow"), 2, "name one tier"),
        (("--from", "/"), 2, "name one tier"),
        (("--tier", "fast", "--cache", "/nowhere"), 1, "hf download Qwen/Qwen3-8B"),
        (("--tier", "strong"), 1, "is not here; run this on a node"),
    ],
)
def test_what_is_not_here_is_not_pinned(
    config: Path, options: tuple[str, ...], code: int, words: str
) -> None:
    """The config stays as it is, and one line says what to do."""
    before = config.read_text()
    result = run(config, *options)
    assert result.exit_code == code
    assert words in result.stderr
    assert config.read_text() == before


def test_a_model_that_may_move_is_warned_of(config: Path) -> None:
    """By `check`, for what engines fetch from the hub; the shipped configs are pinned."""
    text = config.read_text()
    config.write_text(
        text.replace("revision: b968826d9c46dd6066d109eabc6255188de91218", "revision: main")
    )
    result = CliRunner().invoke(app, ["check", str(config)])
    assert result.exit_code == 0
    assert "warning: tiers.fast.engine.revision: 'Qwen/Qwen3-8B' is fetched" in result.stderr
    assert "tiers.strong.engine.revision" not in result.stderr
    for name in ("prod", "prod-qwen3"):
        shipped = CliRunner(env={CERTIFICATE: "/tls.pem"}).invoke(
            app, ["check", str(CONFIGS / f"{name}.yaml")]
        )
        assert "warning" not in shipped.stderr
