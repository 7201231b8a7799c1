"""The tasks of a tier: what one engine can do together."""

from __future__ import annotations

from typing import Any

import pytest

from serve_app.config.app import BODY_BYTES_REST, complete_runtime
from serve_app.config.runtime import RuntimeConfig
from serve_app.config.tiers import TierConfig
from serve_app.deploy.plan import plan_engine


def tier(*tasks: str, **fields: Any) -> TierConfig:
    return TierConfig.model_validate({"name": "t", "model_id": "m", "tasks": tasks, **fields})


@pytest.mark.parametrize("tasks", [("generate",), ("embed",), ("score",), ("embed", "score")])
def test_tasks_that_one_engine_has(tasks: tuple[str, ...]) -> None:
    """An embedding model scores too, by the cosine of two vectors."""
    assert tier(*tasks).tasks == tasks


@pytest.mark.parametrize(
    ("tasks", "fields", "message"),
    [
        (("generate", "embed"), {}, "either generates or reads"),
        (("embed", "embed"), {}, "names a task twice"),
        ((), {}, "at least 1 item"),
        (("classify",), {}, "'generate', 'embed' or 'score'"),
        (("embed",), {"engine": {"runner": "generate"}}, "runner: generate contradicts tasks"),
        (("generate",), {"engine": {"runner": "pooling"}}, "runner: pooling contradicts tasks"),
        (("score",), {"adapters": {"a": "/a"}}, "adapters need a model"),
    ],
)
def test_tasks_that_no_engine_has(
    tasks: tuple[str, ...], fields: dict[str, Any], message: str
) -> None:
    """vLLM would start, and then refuse every call of the other task."""
    with pytest.raises(ValueError, match=message):
        tier(*tasks, **fields)


def test_the_runner_follows_from_the_tasks() -> None:
    """The files of some models that read are those of models that write, so vLLM is told."""
    assert plan_engine(tier("score"))["runner"] == "pooling"
    assert plan_engine(tier("embed", engine={"runner": "auto"}))["runner"] == "auto"
    assert "runner" not in plan_engine(tier("generate"))


def test_a_body_of_texts_is_bounded_by_its_tokens_not_by_a_context() -> None:
    """A call may hold thousands of texts, each of which fits the context."""
    engine = {"max_model_len": 1024}
    tiers = (tier("generate", engine=engine), tier("embed", engine=engine))
    bodies = {"counts": {"input_tokens_max": 5000}}
    runtime = complete_runtime(RuntimeConfig.model_validate({"bodies": bodies}), tiers)
    assert runtime.limits.body_bytes_max == 50_000 + BODY_BYTES_REST
