"""A local Hugging Face checkpoint, pickled or not, as safetensors; transformers does the work."""

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
    """Write `source` to `dest`, which must not exist or be empty: as a whole or not at all.

    Pickles are read by torch's restricted unpickler, which makes tensors and nothing else. No code
    of the model's own is run, and nothing is fetched.

    Raises:
        ConversionFailed: the source cannot be read, or the result does not stand up to the checks.
    """
    if dest.is_symlink() or (dest.exists() and not (dest.is_dir() and not any(dest.iterdir()))):
        raise ConversionFailed(f"{dest} is there already, and is no empty directory")
    with _scratch_beside(dest) as scratch:
        try:
            _save_model(source, scratch, dtype)
            _save_tokenizer(source, scratch)
        except ConversionFailed:
            raise
        except Exception as error:  # of many kinds; each says that the source is no good
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
    """A directory on the same disk, gone in the end unless it was renamed."""
    parent = dest.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{dest.name}.converting-", dir=parent) as private:
        scratch = Path(private, "model")  # one deeper, for TemporaryDirectory is closed to others
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
    """The class that the config names: Auto classes would drop or add a head."""
    import transformers

    name = (config.architectures or ["nothing"])[0]
    found = getattr(transformers, name, None)
    if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
        return found
    raise ConversionFailed(f"config.json names {name!r}, which transformers does not know")


def _refuse_losses(loading: Mapping[str, Collection[object]]) -> None:
    """transformers would put random numbers where weights are missing, and drop the rest."""
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        if items := sorted(map(str, loading.get(kind, ()))):
            more = f" and {len(items) - 3} more" if len(items) > 3 else ""
            what = kind.replace("_", " ")
            raise ConversionFailed(f"the weights do not fit the config: {what}: {items[:3]}{more}")


def _save_tokenizer(source: Path, dest: Path) -> None:
    """A fast tokenizer as it is, byte for byte; transformers makes one of an older form."""
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
    """safetensors keeps files to their owner, but another user may serve them."""
    for path in directory.iterdir():
        path.chmod(0o644)
