"""`serve-app scale-pool`: a patch of the cluster that runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner, Result

from serve_app.cli.main import app
from tests.cluster.kustomization import build, patch_json

ROOT = Path(__file__).parents[2]
PROD = ROOT / "configs/prod.yaml"


def run(*arguments: object) -> Result:
    """The command in this process."""
    return CliRunner().invoke(app, ["scale-pool", *map(str, arguments)])


def sizes_after(*options: object) -> dict[str, tuple[int, int]]:
    """The pools of the running cluster of overlays/prod, once it is patched."""
    [service] = [
        o for o in build(ROOT / "cluster/kuberay/overlays/prod") if o["kind"] == "RayService"
    ]
    cluster: dict[str, Any] = {"spec": service["spec"]["rayClusterConfig"]}
    for group in cluster["spec"]["workerGroupSpecs"]:
        group["minReplicas"] = group["maxReplicas"] = 77
    result = run(PROD, *options)
    assert result.exit_code == 0, result.output
    patch_json(cluster, orjson.loads(result.stdout))
    groups = cluster["spec"]["workerGroupSpecs"]
    return {group["groupName"]: (group["minReplicas"], group["maxReplicas"]) for group in groups}


def test_all_pools_get_the_size_of_the_config() -> None:
    """Whatever they had before."""
    assert sizes_after() == {"fast": (2, 8), "strong": (1, 4), "router": (2, 3)}


def test_one_pool_gets_another_size() -> None:
    """The others stay; the most is raised with the fewest."""
    assert sizes_after("--pool", "strong", "--nodes-min", 5) == {
        "fast": (77, 77),
        "strong": (5, 5),
        "router": (77, 77),
    }


def test_numbers_beside_a_deployment_count(tmp_path: Path) -> None:
    """They are what Serve goes by, whatever `args` say."""
    path = tmp_path / "serve.yaml"
    scaling = "autoscaling_config: {min_replicas: 2, max_replicas: 6}"
    fast, strong = "name: tier-fast, num_replicas: 4", f"name: tier-strong, {scaling}"
    more = f"deployments:\n      - {{{fast}}}\n      - {{{strong}}}"
    path.write_text(PROD.read_text().replace("deployments:", more))
    result = run(path)
    assert result.exit_code == 0, result.output
    sizes = [(op["path"], op["value"]) for op in orjson.loads(result.stdout) if op["op"] != "test"]
    assert sizes == [
        ("/spec/workerGroupSpecs/0/minReplicas", 4),
        ("/spec/workerGroupSpecs/0/maxReplicas", 4),
        ("/spec/workerGroupSpecs/1/minReplicas", 2),
        ("/spec/workerGroupSpecs/1/maxReplicas", 6),
        ("/spec/workerGroupSpecs/2/minReplicas", 2),
        ("/spec/workerGroupSpecs/2/maxReplicas", 3),
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((PROD, "--pool", "slow"), "there is no pool 'slow', only fast, strong, router"),
        ((PROD, "--nodes-min", 1), "need --pool"),
        (
            (PROD, "--pool", "fast", "--nodes-max", 1),
            "the minimum of 2 pods is above the maximum of 1",
        ),
        ((ROOT / "configs/local.yaml",), "every replica runs on the head"),
    ],
)
def test_sizes_that_make_no_sense(arguments: tuple[object, ...], words: str) -> None:
    """Exit code 2, one line, and no patch."""
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in result.stderr


def test_the_runbook_has_the_command() -> None:
    """Of the active cluster, with what this prints."""
    text = (ROOT / "docs/runbook.md").read_text()
    assert re.search(r"k patch raycluster .*--type=json .*\$\(serve-app scale-pool ", text)
    assert ".status.activeServiceStatus.rayClusterName" in text
