"""Small Qwen3 checkpoints, trained here from nothing, for machines without GPUs."""

from pathlib import Path

CHECKPOINTS = Path(__file__).parent / "checkpoints"
NAMES = ("fast", "strong")
"""The models that write."""
READERS = ("embed", "rerank")
"""The models that read: one makes vectors of texts, one scores pairs of texts."""
SUMS = "SHA256SUMS"


class CheckpointMissing(FileNotFoundError):
    """The demo checkpoint of this name is not there, or there is none of this name."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        if self.name not in NAMES + READERS:
            *others, last = NAMES + READERS
            return f"there is no demo checkpoint {self.name!r}, only {', '.join(others)} and {last}"
        maker = "train" if self.name in NAMES else "retrieval"
        return (
            f"the demo checkpoint {self.name!r} is missing; it comes with the package, and "
            f"`python -m serve_app.offline.demo.{maker}` makes it again"
        )


def locate(name: str, root: Path = CHECKPOINTS) -> Path:
    """The directory of a demo checkpoint, to be given to vLLM as the model."""
    path = root / name
    # The sums are written last, so they stand for the whole checkpoint.
    if name not in NAMES + READERS or not (path / SUMS).is_file():
        raise CheckpointMissing(name)
    return path
