"""The commands that start nothing: what they print, and how they exit."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from serve_app.cli.main import app
from serve_app.config.docs import render_config_docs
from serve_app.config.environment import ray_environment
from serve_app.config.tls import CERTIFICATE

CONFIGS = Path(__file__).parents[2] / "configs"
VALID = (CONFIGS / "prod.yaml").read_text()


@pytest.fixture
def cli() -> CliRunner:
    """Runs commands in this process."""
    return CliRunner(env={CERTIFICATE: "/etc/serve-app/tls.pem"})


@pytest.mark.parametrize("name", ["local", "prod"])
def test_check_takes_a_good_file(cli: CliRunner, name: str) -> None:
    """A valid file is said to be valid, by the names of its tiers."""
    path = CONFIGS / f"{name}.yaml"
    result = cli.invoke(app, ["check", str(path)])
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"{path}: valid; tiers: fast, strong\n"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("max_queued_calls", "max_queue_calls", "did you mean 'max_queued_calls'"),
        ("drain_timeout_s: 1800", "drain_timeout_s: -1", "drain_timeout_s"),
        ("strong_score_min: 0.5", "strong_score_min: 7", "routing.strong_score_min"),
        ("strong_score_min: 0.5", "weights: /no.bin", "routing.weights: /no.bin: No such file"),
        ("max_num_seqs: 256", "max_num_sequences: 256", "did you mean 'max_num_seqs'"),
        ("dtype: bfloat16", "dtype: bfloat17", "tiers.fast.engine.dtype"),
        ("gpu_memory_utilization: 0.92", "gpu_memory_utilization: 1.7", "less than or equal to 1"),
        ("accelerator_type: H100", "accelerator_type: h100", "did you mean 'H100'?"),
        ("accelerator_type: H100", "accelerator_type: A10", "ray.serve.llm does not take 'A10'"),
        ("accelerator_type: H100", "accelerator_type: L20", "place by node_labels"),
        ("serve_app.app:build", "other:app", "import_path"),
        ("applications:", "applications: [", "not valid YAML"),
        ("accelerator_type: H100", "accelerator_type: L20", "ray.serve.llm does not take 'L20'"),
    ],
)
def test_check_refuses_a_bad_file(
    cli: CliRunner, tmp_path: Path, old: str, new: str, words: str
) -> None:
    """Exit code 2 and one message, with the file and the key."""
    path = tmp_path / "bad.yaml"
    path.write_text(VALID.replace(old, new))
    result = cli.invoke(app, ["check", str(path)])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"{path}: ")
    assert words in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("name", "words"),
    [("A10G", ""), ("A100", ""), ("A100-80G", "mend: accelerator_type: A100, and --card A100-80G")],
)
def test_check_says_which_name_ray_has(
    cli: CliRunner, tmp_path: Path, name: str, words: str
) -> None:
    """A name that no node has of itself is a warning: it may have been given by hand."""
    path = tmp_path / "named.yaml"
    path.write_text(VALID.replace("accelerator_type: H100", f"accelerator_type: {name}"))
    result = cli.invoke(app, ["check", str(path)])
    assert result.exit_code == 0
    assert (words in result.stderr, bool(result.stderr)) == (True, bool(words))


ACCESS = "          access: {anonymous: {roles: [user]}%s}\n"


@pytest.mark.parametrize(
    ("host", "access", "warning"),
    [
        ("127.0.0.1", "", ""),
        ("127.8.8.8", "", ""),
        ('"::1"', "", ""),
        ("localhost", "", ""),
        ("0.0.0.0", "", "warning: http_options.host: the address is public"),
        ('"::"', "", "warning: http_options.host: the address is public"),
        ("10.0.0.1", "", "warning: http_options.host: the address is public"),
        ("gpu-1.internal", "", "warning: http_options.host: the address is public"),
        ("0.0.0.0", ACCESS % "", ""),
        (
            "0.0.0.0",
            ACCESS % ", addresses: {deny: [192.0.2.1]}",
            "warning: access.addresses.trusted_proxies: only 127.0.0.0/8",
        ),
        (
            "0.0.0.0",
            ACCESS % ", addresses: {deny: [192.0.2.1], trusted_proxies: [10.0.0.0/24]}",
            "",
        ),
    ],
)
def test_check_warns_of_an_open_door(
    cli: CliRunner, tmp_path: Path, host: str, access: str, warning: str
) -> None:
    """The config is valid, but lets in more clients than its author may think."""
    text = (CONFIGS / "local.yaml").read_text().replace("host: 127.0.0.1", f"host: {host}")
    path = tmp_path / "open.yaml"
    path.write_text(text.replace("          routing:\n", f"{access}          routing:\n"))
    result = cli.invoke(app, ["check", str(path)])
    assert result.exit_code == 0
    assert result.stderr.startswith(warning)
    assert bool(result.stderr) == bool(warning)


@pytest.mark.parametrize("command", ["check", "plan"])
def test_a_model_directory_without_a_config_is_refused(
    cli: CliRunner, tmp_path: Path, command: str
) -> None:
    """A directory that is here and holds no model is not passed over for the model id's facts."""
    (tmp_path / "model").mkdir()
    path = tmp_path / "config.yaml"
    line = "# model_source: /models/Qwen2.5-7B-Instruct"
    assert line in VALID
    path.write_text(VALID.replace(line, f"model_source: {tmp_path / 'model'}"))
    result = cli.invoke(app, [command, str(path)])
    assert result.exit_code == 2
    where = (
        f"{path}: tiers.fast.model_source: the directory {tmp_path / 'model'} has no config.json"
    )
    assert result.stderr.startswith(where)


def test_check_warns_of_a_queue_that_cannot_be_served(cli: CliRunner, tmp_path: Path) -> None:
    """A warning says which key and what would do; the config is valid all the same."""
    text = (CONFIGS / "prod.yaml").read_text()
    path = tmp_path / "long.yaml"
    path.write_text(text.replace("lease_s: 60", "lease_s: 20"))
    result = cli.invoke(app, ["check", str(path)])
    assert result.exit_code == 0
    assert "warning: tiers.strong.max_queued_calls: 3 Routers let" in result.stderr
    assert "mend: max_queued_calls: " in result.stderr
    shipped = cli.invoke(app, ["check", str(CONFIGS / "prod.yaml")])
    assert "warning" not in shipped.stderr


def test_check_warns_of_a_public_port_without_tls(cli: CliRunner) -> None:
    """Whoever ends TLS elsewhere may ignore it: the config is valid."""
    result = cli.invoke(app, ["check", str(CONFIGS / "prod.yaml")], env={CERTIFICATE: None})
    assert result.exit_code == 0
    assert "warning: http_options.host: 0.0.0.0 is public" in result.stderr


def test_check_refuses_a_missing_file(cli: CliRunner, tmp_path: Path) -> None:
    """A path that leads nowhere is a plain message too."""
    result = cli.invoke(app, ["check", str(tmp_path / "nowhere.yaml")])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "nowhere.yaml: No such file" in result.stderr


@pytest.mark.parametrize(("option", "haproxy"), [("--haproxy", True), ("--no-haproxy", False)])
def test_env_exports_what_ray_needs(cli: CliRunner, option: str, haproxy: bool) -> None:
    """A shell that evaluates the lines has every variable."""
    result = cli.invoke(app, ["env", option])
    words = [shlex.split(line) for line in result.stdout.splitlines()]
    assert all(word[0] == "export" and len(word) == 2 for word in words)
    exported = dict(word[1].split("=", 1) for word in words)
    assert (result.exit_code, exported) == (0, ray_environment(haproxy=haproxy))


def test_config_docs_prints_the_page(cli: CliRunner) -> None:
    """The page as it belongs into docs/config.md, to the byte."""
    result = cli.invoke(app, ["config-docs"])
    assert (result.exit_code, result.stdout) == (0, render_config_docs())


def test_no_command_is_a_question(cli: CliRunner) -> None:
    """Without a command, the commands are listed."""
    result = cli.invoke(app, [])
    assert [name for name in ("up", "down", "check", "env") if name not in result.output] == []
