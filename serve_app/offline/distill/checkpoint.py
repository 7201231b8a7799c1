"""Reads the base model, and writes the adapter or a whole checkpoint."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from serve_app import demo
from serve_app.config.tiers import DEMO_PREFIX
from serve_app.core.outputs import OutputUnusable
from serve_app.model_files.integrity import make_sums
from serve_app.model_files.sums import write_sums
from serve_app.offline.distill.distill_errors import UnknownBase
from serve_app.offline.distill.masking import Tokenizer

RECORD = "training.json"


def locate_base(base: str) -> Path:
    """The directory of the base model.

    Raises:
        UnknownBase: there is none.
    """
    if base.startswith(DEMO_PREFIX):
        try:
            return demo.locate(base.removeprefix(DEMO_PREFIX))
        except demo.CheckpointMissing as error:
            raise UnknownBase(base, str(error)) from None
    directory = Path(base)
    if not (directory / "config.json").is_file():
        found = "has no config.json" if directory.is_dir() else "is no directory here"
        raise UnknownBase(base, found)
    return directory


def read_tokenizer(base: str) -> Tokenizer:
    """The base's tokenizer, which must have a chat template.

    Raises:
        UnknownBase: it has none.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(locate_base(base), local_files_only=True)
    except (OSError, ValueError) as error:
        raise UnknownBase(base, f"its tokenizer cannot be read ({type(error).__name__})") from None
    if not tokenizer.chat_template or tokenizer.eos_token_id is None:
        raise UnknownBase(base, "its tokenizer has no chat template or no end of a turn")
    return tokenizer


def read_model(base: str, dtype: torch.dtype) -> PreTrainedModel:
    """The base's weights.

    Raises:
        UnknownBase: they cannot be read.
    """
    try:
        return AutoModelForCausalLM.from_pretrained(
            locate_base(base), dtype=dtype, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise UnknownBase(base, f"its weights cannot be read ({type(error).__name__})") from None


def write_adapter(model: PeftModel, out: Path, record: Mapping[str, Any]) -> None:
    """The adapter with the record of its training, all or nothing.

    Raises:
        OutputUnusable: the disk does not take it.
    """
    with _finished(out) as scratch:
        model.save_pretrained(str(scratch))
        # peft writes a model card with nothing but placeholders.
        (scratch / "README.md").unlink(missing_ok=True)
        _write_record(scratch, record)


def write_merged(model: PeftModel, base: Path, out: Path, record: Mapping[str, Any]) -> None:
    """The base with the adapter in its weights: a checkpoint as any other, all or nothing.

    Raises:
        OutputUnusable: the disk does not take it.
    """
    config = orjson.loads((base / "config.json").read_bytes())
    dtype = getattr(torch, config.get("dtype") or config.get("torch_dtype") or "bfloat16")
    merged = model.merge_and_unload().to(dtype)
    with _finished(out) as scratch:
        merged.save_pretrained(str(scratch))
        for path in base.iterdir():
            # The config, too: transformers would write it in a form of its own.
            if path.is_file() and not _holds_weights(path.name):
                shutil.copyfile(path, scratch / path.name)
        _write_record(scratch, record)
        write_sums(scratch, make_sums(scratch))


def _holds_weights(name: str) -> bool:
    return name.endswith((".safetensors", ".safetensors.index.json", ".bin")) or name == demo.SUMS


def _write_record(directory: Path, record: Mapping[str, Any]) -> None:
    content = orjson.dumps(record, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    (directory / RECORD).write_bytes(content)


@contextmanager
def _finished(out: Path) -> Iterator[Path]:
    """A directory that takes the place of `out` when it is complete."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as private:
            scratch = Path(private, "new")
            scratch.mkdir()
            yield scratch
            for path in scratch.iterdir():
                path.chmod(0o644)  # safetensors keeps it to its owner, and a container is another
            if out.exists():
                out.rename(Path(private, "old"))
            os.rename(scratch, out)
    except OSError as error:
        raise OutputUnusable(out, error.strerror or type(error).__name__) from None
