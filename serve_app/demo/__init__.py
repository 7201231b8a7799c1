"""Two tiny Qwen3 checkpoints with random weights, for tests and for machines without GPUs."""

from pathlib import Path

CHECKPOINTS = Path(__file__).parent / "checkpoints"
NAMES = ("fast", "strong")
MANIFEST = "manifest.json"


class CheckpointMissing(FileNotFoundError):
    """The demo checkpoint of this name has not been made, or there is none of this name."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        if self.name not in NAMES:
            return f"there is no demo checkpoint {self.name!r}, only {' and '.join(NAMES)}"
        return (
            f"the demo checkpoint {self.name!r} has not been made; "
            "run `python -m serve_app.demo.make` once"
        )


def locate(name: str, root: Path = CHECKPOINTS) -> Path:
    """The directory of a demo checkpoint, to be given to vLLM as the model."""
    path = root / name
    # The manifest is written last, so it stands for the whole checkpoint.
    if name not in NAMES or not (path / MANIFEST).is_file():
        raise CheckpointMissing(name)
    return path
