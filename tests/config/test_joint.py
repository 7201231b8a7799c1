"""A policy for all tiers together, as the Serve file names it."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import yaml

from serve_app.autoscaling.ray_policies import JointPolicy
from serve_app.config.joint import JOINT_POLICY, JOINT_POLICY_0_1
from serve_app.config.reader import ConfigError, read_serve_config

LLM = {"policy": "llm"}
TIERS = [
    {"name": "fast", "model_id": "f", "replicas": LLM},
    {"name": "strong", "model_id": "s", "replicas": LLM},
    {"name": "other", "model_id": "o"},
]
MIXTURE = {"name": "mixture", "model_id": "m", "engine": {"data_parallel_size": 2}}


def load(
    tmp_path: Path, kwargs: dict[str, Any], *more: dict[str, Any], policy: str = JOINT_POLICY
) -> None:
    """Load a file with these tiers and more, whose policy has these arguments."""
    application = {
        "import_path": "serve_app.app:build",
        "args": {"tiers": [*TIERS, *more]},
        "autoscaling_policy": {"policy_function": policy, "policy_kwargs": kwargs},
    }
    path = tmp_path / "serve.yaml"
    path.write_text(yaml.safe_dump({"applications": [application]}))
    read_serve_config(path)


def test_the_name_is_that_of_the_class() -> None:
    """What is checked is what Ray loads."""
    assert f"{JointPolicy.__module__}:{JointPolicy.__qualname__}" == JOINT_POLICY


def test_the_name_of_0_1_is_still_the_class(tmp_path: Path) -> None:
    """Files that were written before the packages moved go on working, and are checked alike."""
    load(tmp_path, {"tiers": ["fast", "strong"]}, policy=JOINT_POLICY_0_1)
    with pytest.raises(ConfigError, match="did you mean 'gpus_max'"):
        load(tmp_path, {"tiers": ["fast", "strong"], "gpu_max": 8}, policy=JOINT_POLICY_0_1)
    module, name = JOINT_POLICY_0_1.split(":")
    with pytest.warns(DeprecationWarning, match="autoscaling.ray_policies"):
        old = importlib.import_module(module)
    assert getattr(old, name) is JointPolicy


@pytest.mark.parametrize(
    "kwargs", [{"tiers": ["fast", "strong"], "gpus_max": 8}, {"tiers": ["fast", "strong"]}]
)
def test_what_the_policy_takes(tmp_path: Path, kwargs: dict[str, Any]) -> None:
    """Tiers weakest first, some or all; anything that the check lets pass, the policy takes."""
    load(tmp_path, kwargs)
    JointPolicy(**kwargs)


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({}, "tiers: required"),
        ({"tiers": []}, "tiers: .*at least 1"),
        ({"tiers": ["fast", "srtong"]}, "no tier 'srtong'; there are fast, strong, other"),
        ({"tiers": ["fast", "other"]}, "other needs replicas.policy: llm"),
        ({"tiers": ["strong", "fast"]}, r"weakest first and each once, \[fast, strong\]"),
        ({"tiers": ["fast", "fast"]}, r"weakest first and each once, \[fast\]"),
        ({"tiers": ["fast"]}, "strong has replicas.policy: llm.*name it too"),
        ({"tiers": ["fast"], "gpus_max": 0}, "gpus_max: .*greater than 0"),
        ({"tiers": ["fast"], "gpu_max": 8}, "did you mean 'gpus_max'"),
    ],
)
def test_what_it_would_fail_over(tmp_path: Path, kwargs: dict[str, Any], words: str) -> None:
    """Refused with the key, before the controller falls back to Ray's policy."""
    with pytest.raises(ConfigError, match=words):
        load(tmp_path, kwargs)


def test_no_group_of_engines_beside_it(tmp_path: Path) -> None:
    """Ray rounds to whole groups only where each deployment has its own policy."""
    with pytest.raises(ConfigError, match="mixture has engine"):
        load(tmp_path, {"tiers": ["fast", "strong"]}, MIXTURE)
    with pytest.raises(ConfigError, match="mixture has engine"):
        load(tmp_path, {}, MIXTURE, policy="theirs:Policy")


def test_another_name_in_our_package_is_a_slip(tmp_path: Path) -> None:
    """Ray would find nothing there; a policy of somebody else's is not ours to check."""
    with pytest.raises(ConfigError, match=f"did you mean '{JOINT_POLICY}'"):
        load(tmp_path, {}, policy=JOINT_POLICY.replace(":", "."))
    load(tmp_path, {"tiers": 5}, policy="theirs:Policy")
