"""Convert a local Hugging Face checkpoint, pickled or not, to safetensors with transformers."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from serve_app.model_files.hashing import Progress, no_progress
from serve_app.model_files.integrity import make_sums
from serve_app.model_files.sums import write_sums
from serve_app.offline.checkpoints.check import Report, check_model
from serve_app.offline.checkpoints.settings import TOKENIZER, TOKENIZER_CONFIG

TOKENIZER_FILES = (
    TOKENIZER,
    TOKENIZER_CONFIG,
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "processor_config.json",
    "preprocessor_config.json",
)


class ConversionFailed(Exception):
    """A checkpoint cannot be converted; the message says why."""


def convert_checkpoint(
    source: Path, dest: Path, dtype: str = "auto", progress: Progress = no_progress
) -> Report:
    """Write `source` to `dest`, which must be empty or not exist; on a failure nothing is written.

    torch's restricted unpickler reads pickles and creates only tensors. No code from the model is
    run, and nothing is downloaded.

    Raises:
        ConversionFailed: the source cannot be read, or the result does not pass the checks.
    """
    if dest.is_symlink() or (dest.exists() and not (dest.is_dir() and not any(dest.iterdir()))):
        raise ConversionFailed(f"{dest} exists already and is not an empty directory")
    with _scratch_beside(dest) as scratch:
        try:
            _save_model(source, scratch, dtype)
            _save_tokenizer(source, scratch)
        except ConversionFailed:
            raise
        except Exception as error:  # of many kinds; each means that the source cannot be used
            raise ConversionFailed(f"{source} cannot be converted: {error}") from error
        _open_to_readers(scratch)
        write_sums(scratch, make_sums(scratch, progress))
        report = check_model(scratch, progress=progress)
        if not report.ok:
            raise ConversionFailed("\n".join(map(str, report.findings)))
        os.rename(scratch, dest)
    report.directory = dest
    return report


@contextmanager
def _scratch_beside(dest: Path) -> Iterator[Path]:
    """A directory on the same disk, which is removed at the end unless it was renamed."""
    parent = dest.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{dest.name}.converting-", dir=parent) as private:
        scratch = Path(private, "model")  # one deeper: TemporaryDirectory is closed to other users
        scratch.mkdir()
        yield scratch


def _save_model(source: Path, dest: Path, dtype: str) -> None:
    import torch
    import transformers

    config = transformers.AutoConfig.from_pretrained(
        source, local_files_only=True, trust_remote_code=False
    )
    model, loading = _model_class(config).from_pretrained(
        source,
        config=config,
        dtype=dtype if dtype == "auto" else getattr(torch, dtype),
        local_files_only=True,
        weights_only=True,
        output_loading_info=True,
    )
    _refuse_losses(loading)
    model.save_pretrained(dest, max_shard_size="5GB")


def _model_class(config: Any) -> Any:
    """The class that the config names; an Auto class would drop or add a head."""
    import transformers

    name = (config.architectures or ["nothing"])[0]
    found = getattr(transformers, name, None)
    if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
        return found
    raise ConversionFailed(f"config.json names {name!r}, which transformers does not know")


def _refuse_losses(loading: Mapping[str, Collection[object]]) -> None:
    """Reject missing or extra weights, which transformers would fill at random or drop."""
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        if items := sorted(map(str, loading.get(kind, ()))):
            more = f" and {len(items) - 3} more" if len(items) > 3 else ""
            what = kind.replace("_", " ")
            raise ConversionFailed(f"the weights do not fit the config: {what}: {items[:3]}{more}")


def _save_tokenizer(source: Path, dest: Path) -> None:
    """Copy a fast tokenizer byte for byte; transformers converts an older form."""
    if not (source / TOKENIZER).is_file():
        import transformers

        tokenizer = transformers.AutoTokenizer.from_pretrained(
            source, local_files_only=True, trust_remote_code=False
        )
        tokenizer.save_pretrained(dest)
        return
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, dest / name)


def _open_to_readers(directory: Path) -> None:
    """Make the files readable for all users; safetensors restricts them to their owner."""
    for path in directory.iterdir():
        path.chmod(0o644)
