"""From a training set to an adapter: reads, trains, measures, writes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from serve_app.offline.distill.checkpoint import (
    locate_base,
    read_model,
    read_tokenizer,
    write_adapter,
    write_merged,
)
from serve_app.offline.distill.distill_errors import InvalidTrainingSet
from serve_app.offline.distill.masking import EncodedLesson, Tokenizer, encode_lessons
from serve_app.offline.distill.packing import iterate_batches
from serve_app.offline.distill.training import Note, Recipe, add_adapter, measure_loss, train
from serve_app.offline.distill.training_set import TRAIN_FILE, VALIDATION_FILE, read_lessons

_PACKAGES = ("torch", "transformers", "peft")


@dataclass(frozen=True, slots=True)
class Taught:
    """The result of a training; the losses are per learnt token, None without such lessons."""

    lessons: int
    too_long: int
    tokens: int
    learnt_tokens: int
    padding_ratio: float
    steps: int
    elapsed_s: float
    train_loss: float
    validation_loss_before: float | None
    validation_loss: float | None


@dataclass(frozen=True, slots=True)
class Lessons:
    """A training set in tokens."""

    train: list[EncodedLesson]
    validation: list[EncodedLesson]
    too_long: int


def teach(
    directory: Path,
    base: str,
    out: Path,
    merged: Path | None,
    recipe: Recipe,
    device: str,
    note: Note,
) -> Taught:
    """Train an adapter on a training set and write it, and the merged checkpoint if asked for.

    Raises:
        DistillFailed: the set or the base cannot be used, or the training failed.
        OutputUnusable: the disk does not take the result.
    """
    tokenizer = read_tokenizer(base)
    lessons = _read(directory, tokenizer, recipe)
    padding = _padding(tokenizer)
    # On a GPU in half the memory; the adapter itself is trained in 32 bits on both.
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    model = add_adapter(read_model(base, dtype).to(device), recipe)
    taught = _train(model, lessons, recipe, padding, device, note)
    record = _record(directory, base, recipe, device, taught)
    write_adapter(model, out, record)
    if merged is not None:
        write_merged(model, locate_base(base), merged, record)
    return taught


def choose_device(name: str) -> str:
    """`auto` is the first GPU, or the CPU where there is none."""
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def _read(directory: Path, tokenizer: Tokenizer, recipe: Recipe) -> Lessons:
    path = directory / TRAIN_FILE
    train_set, long = encode_lessons(tokenizer, read_lessons(path), recipe.row_tokens)
    if not train_set:
        raise InvalidTrainingSet(
            path, None, f"expected a lesson of at most --row-tokens {recipe.row_tokens}"
        )
    watched = directory / VALIDATION_FILE
    others = read_lessons(watched) if watched.exists() else []
    validation, _ = encode_lessons(tokenizer, others, recipe.row_tokens)
    return Lessons(list(train_set), list(validation), long)


def _train(
    model: PeftModel, lessons: Lessons, recipe: Recipe, padding: int, device: str, note: Note
) -> Taught:
    before = measure_loss(model, lessons.validation, recipe, padding, device)
    steps = train(model, lessons.train, recipe, padding, device, note)
    return Taught(
        lessons=len(lessons.train),
        too_long=lessons.too_long,
        tokens=sum(len(lesson.ids) for lesson in lessons.train),
        learnt_tokens=sum(lesson.answer_tokens for lesson in lessons.train),
        padding_ratio=_measure_padding(lessons, recipe, padding),
        steps=len(steps),
        elapsed_s=steps[-1].elapsed_s,
        train_loss=sum(step.loss for step in steps[-10:]) / len(steps[-10:]),
        validation_loss_before=before,
        validation_loss=measure_loss(model, lessons.validation, recipe, padding, device),
    )


def _measure_padding(lessons: Lessons, recipe: Recipe, padding: int) -> float:
    batches = list(
        iterate_batches(
            lessons.train,
            row_tokens=recipe.row_tokens,
            batch_tokens=recipe.batch_tokens,
            padding=padding,
            seed=f"{recipe.seed} 0",
        )
    )
    empty = sum(int((batch.lesson == 0).sum()) for batch in batches)
    return float(empty / sum(batch.ids.numel() for batch in batches))


def _padding(tokenizer: Tokenizer) -> int:
    padding = tokenizer.pad_token_id
    return int(tokenizer.eos_token_id if padding is None else padding)


def _record(
    directory: Path, base: str, recipe: Recipe, device: str, taught: Taught
) -> Mapping[str, Any]:
    """What is needed to train the same adapter again."""
    config = (locate_base(base) / "config.json").read_bytes()
    return {
        "created_at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "base": base,
        "base_config_sha256": hashlib.sha256(config).hexdigest(),
        "train_sha256": hashlib.sha256((directory / TRAIN_FILE).read_bytes()).hexdigest(),
        "recipe": asdict(recipe),
        "device": device,
        "packages": {name: version(name) for name in _PACKAGES},
        "result": asdict(taught),
    }
