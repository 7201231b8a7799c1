"""The errors of a step of the GPU check, in addition to `bench_errors.py`.

BenchFailed
├── ShapeUnknown      a model without weights has a shape that the table does not have
├── KernelsFailed     the kernels could not be measured
└── WrongCard         the config is for another GPU than the GPU of this machine
"""

from __future__ import annotations

from serve_app.offline.bench.bench_errors import BenchFailed


class ShapeUnknown(BenchFailed):
    """A model without weights has a shape that the table does not have."""

    def __init__(self, tier: str, model_id: str, source: str) -> None:
        super().__init__(
            f"tiers.{tier}: no config.json can be written to '{source}': it must be an absolute "
            f"directory, and '{model_id}' a dense model of serve_app/offline/planning/models.toml"
        )


class KernelsFailed(BenchFailed):
    """The kernels could not be measured."""

    def __init__(self, log_tail: str) -> None:
        super().__init__(f"the kernels ended without numbers; the end of their log:\n{log_tail}")


class WrongCard(BenchFailed):
    """The config is for another GPU than the GPU of this machine."""

    def __init__(self, wanted: str, found: str) -> None:
        super().__init__(
            f"the config places its replicas on {wanted}, and the GPU here is {found}: give a "
            "config for this GPU with --config"
        )
