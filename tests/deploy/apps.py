"""Random configs, as far as they say where replicas go."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from serve_app.config.app import AppConfig

SELECTORS = st.sampled_from(["a", "b", "!a", "in(a,b)", "!in(a, c)"])
LABELS = st.dictionaries(st.sampled_from(["zone", "rack"]), SELECTORS, max_size=2)
AMOUNTS = st.dictionaries(
    st.sampled_from(["slot", "disk"]), st.sampled_from([0.001, 0.5, 1.0, 2.0]), max_size=2
)
CPUS = st.sampled_from([0.1, 0.5, 1.0, 2.0])


@st.composite
def tiers(draw: st.DrawFn, name: str) -> dict[str, Any]:
    """A tier with any strategy that its engine allows."""
    gpu = draw(st.booleans())
    gpus_per_node = draw(st.sampled_from([1, 2, 4, 8]))
    tensor = draw(st.sampled_from([size for size in (1, 2, 4, 8) if size <= gpus_per_node]))
    pipeline = draw(st.sampled_from([1, 1, 2, 3])) if gpu else 1
    data = draw(st.sampled_from([1, 1, 2])) if gpu else 1
    strategies = ["auto", "PACK"]
    if data == 1 and tensor == 1:
        strategies += ["SPREAD", "STRICT_SPREAD"]
    if data == 1 and tensor * pipeline <= gpus_per_node:
        strategies.append("STRICT_PACK")
    least = draw(st.integers(1, 3))
    return {
        "name": name,
        "model_id": f"model-{name}",
        "accelerator": "gpu" if gpu else "cpu",
        "accelerator_type": draw(st.sampled_from(["H100", "L4", None])) if gpu else None,
        "engine": {
            "tensor_parallel_size": tensor,
            "pipeline_parallel_size": pipeline,
            "data_parallel_size": data,
        },
        "placement": {
            "strategy": draw(st.sampled_from(strategies)),
            "gpus_per_node": gpus_per_node,
            "node_labels": draw(LABELS),
            "cpus_per_worker": draw(CPUS),
            "cpus_per_server": draw(CPUS),
            "resources_per_worker": draw(AMOUNTS),
            "resources_per_replica": draw(AMOUNTS) if data == 1 else {},
        },
        "replicas": {"min": least, "max": least + draw(st.integers(0, 4))},
    }


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """The `args` of a Serve config file with one to four tiers."""
    names = ["fast", "strong", "big_one", "router"][: draw(st.integers(1, 4))]
    least = draw(st.integers(1, 3))
    return {
        "tiers": [draw(tiers(name)) for name in names],
        "router": {
            "cpus": draw(CPUS),
            "replicas": {"min": least, "max": least + draw(st.integers(0, 2))},
            "max_replicas_per_node": draw(st.sampled_from([None, 1, 2])),
        },
    }


def apps() -> st.SearchStrategy[AppConfig]:
    """Such configs as a whole."""
    return documents().map(AppConfig.model_validate)
