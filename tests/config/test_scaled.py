"""The numbers of replicas that Serve goes by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from serve_app.config.reader import IMPORT_PATH, read_serve_config
from serve_app.config.scaled import read_scaled

ARGUMENTS = {
    "tiers": [
        {"name": name, "model_id": f"m-{name}", "replicas": {"min": 1, "max": 4}}
        for name in ("fast", "strong")
    ],
    "router": {"replicas": {"min": 2, "max": 3}},
}


@pytest.mark.parametrize(
    ("deployments", "strong", "router"),
    [
        ([], (1, 4), (2, 3)),
        ([{"name": "tier-strong", "num_replicas": 3}], (3, 3), (2, 3)),
        ([{"name": "tier-strong", "num_replicas": "auto"}], (1, 4), (2, 3)),
        ([{"name": "tier-strong", "autoscaling_config": {"max_replicas": 9}}], (1, 9), (2, 3)),
        (
            [{"name": "Router", "autoscaling_config": {"min_replicas": 4, "max_replicas": 5}}],
            (1, 4),
            (4, 5),
        ),
        ([{"name": "Router", "user_config": {}}], (1, 4), (2, 3)),
    ],
)
def test_numbers_beside_a_deployment_win(
    tmp_path: Path,
    deployments: list[dict[str, Any]],
    strong: tuple[int, int],
    router: tuple[int, int],
) -> None:
    """Those of `args` count where there are none."""
    application = {"import_path": IMPORT_PATH, "args": ARGUMENTS, "deployments": deployments}
    path = tmp_path / "serve.yaml"
    path.write_text(yaml.safe_dump({"applications": [application]}))
    app = read_scaled(read_serve_config(path))
    fast, other = (tier.replicas for tier in app.tiers)
    assert (fast.min, fast.max) == (1, 4)
    assert (other.min, other.max) == strong
    assert (app.router.replicas.min, app.router.replicas.max) == router
