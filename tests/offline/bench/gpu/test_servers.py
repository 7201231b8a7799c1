"""The servers that are compared."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser

from serve_app.config.reader import read_serve_config
from serve_app.offline.bench.gpu.servers import build_bare, build_service, render_flags

CONFIGS = Path(__file__).parents[4] / "configs"
NAMES = ("gpu-check", "local", "prod")


@pytest.mark.parametrize("name", NAMES)
def test_bare_vllm_takes_every_engine_argument(name: str) -> None:
    """Its own command line reads what the service hands over as keyword arguments."""
    parser = make_arg_parser(FlexibleArgumentParser())
    for tier in read_serve_config(CONFIGS / f"{name}.yaml").app.tiers:
        target = build_bare(tier, 8123)
        assert target.command[1:3] == ["-m", "vllm.entrypoints.openai.api_server"]
        read = vars(parser.parse_args(list(target.command[3:])))
        plain = {k: v for k, v in tier.engine.items() if not isinstance(v, dict)}
        assert {key: read[key] for key in plain} == plain
        assert read["served_model_name"] == [tier.model_id]
        assert tier.env.items() <= target.env.items()


def test_flags() -> None:
    """Switches are on or off, maps are JSON, lists follow their flag."""
    engine = {"enforce_eager": True, "enable_x": False, "a_map": {"b": [1]}, "some": [1, 2], "n": 3}
    assert list(render_flags(engine)) == [
        "--enforce-eager",
        "--no-enable-x",
        '--a-map={"b": [1]}',
        "--some",
        "1",
        "2",
        "--n=3",
    ]


def test_the_service_has_a_port_and_files_of_its_own(tmp_path: Path) -> None:
    """A service that runs on this machine already is neither joined nor disturbed."""
    target = build_service(read_serve_config(CONFIGS / "local.yaml"), 8123, tmp_path)
    target.write_config()
    written = yaml.safe_load((tmp_path / "serve.yaml").read_text())
    assert written["http_options"]["port"] == 8123
    assert target.env["RAY_TMPDIR"] == str(tmp_path)
    assert target.env["SERVE_APP_RUN"].startswith(str(tmp_path))
