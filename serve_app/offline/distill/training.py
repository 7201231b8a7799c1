"""Fits a LoRA adapter to the lessons of a training set."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch.nn import functional
from transformers import PreTrainedModel

from serve_app.offline.distill.distill_errors import TrainingDiverged
from serve_app.offline.distill.masking import IGNORED, EncodedLesson
from serve_app.offline.distill.packing import Batch, iterate_batches

_GRADIENT_NORM_MAX = 1.0
_WARMUP_RATIO = 0.05


@dataclass(frozen=True, slots=True)
class Recipe:
    """How an adapter is trained.

    Rows of `row_tokens` are packed with lessons, and a step learns from `batch_tokens`.
    """

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    epochs: int = 3
    learning_rate: float = 2e-4
    batch_tokens: int = 8192
    row_tokens: int = 2048
    steps_max: int | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """A step that is done; `loss` is per learnt token."""

    number: int
    of: int
    loss: float
    tokens: int
    elapsed_s: float


Note = Callable[[Step], None]


def add_adapter(model: PreTrainedModel, recipe: Recipe) -> PeftModel:
    """The model with an adapter that changes nothing yet, beside each linear layer but the last."""
    torch.manual_seed(recipe.seed)
    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        # peft 0.21 reads a name that transformers 5 has renamed.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        return get_peft_model(model, config)


def train(
    model: PeftModel,
    lessons: Sequence[EncodedLesson],
    recipe: Recipe,
    padding: int,
    device: str,
    note: Note = lambda _: None,
) -> Sequence[Step]:
    """Train the adapter; returns every step.

    Raises:
        TrainingDiverged: the loss is not a number any more.
    """
    steps = count_steps(lessons, recipe, padding)
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=recipe.learning_rate, betas=(0.9, 0.99))
    model.train()
    began_at, tokens, done = time.monotonic(), 0, list[Step]()
    for number, batch in enumerate(_epochs(lessons, recipe, padding, steps), start=1):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * choose_rate(number, steps)
        loss = answer_loss(model, batch.to(device), device)
        if not math.isfinite(loss.item()):
            raise TrainingDiverged(number)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, _GRADIENT_NORM_MAX)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        tokens += int((batch.lesson > 0).sum())
        done.append(Step(number, steps, loss.item(), tokens, time.monotonic() - began_at))
        note(done[-1])
    model.eval()
    return done


def count_steps(lessons: Sequence[EncodedLesson], recipe: Recipe, padding: int) -> int:
    """The number of steps of all epochs."""
    steps = sum(1 for _ in _all_batches(lessons, recipe, padding))
    return steps if recipe.steps_max is None else min(steps, recipe.steps_max)


def choose_rate(step: int, steps: int) -> float:
    """The share of the learning rate: a short rise, then half a cosine down to nothing."""
    warmup = max(1, round(_WARMUP_RATIO * steps))
    if step < warmup:
        return step / warmup
    done = (step - warmup) / max(1, steps - warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * done))


def answer_loss(model: PeftModel, batch: Batch, device: str) -> torch.Tensor:
    """The mean loss of the learnt tokens; only those are projected to the vocabulary."""
    base = model.get_base_model()
    with torch.autocast(device.partition(":")[0], torch.bfloat16):
        hidden = base.base_model(
            input_ids=batch.ids,
            position_ids=batch.positions,
            attention_mask=batch.attention.to(batch.ids.device),
            use_cache=False,
        ).last_hidden_state
        wanted = batch.labels != IGNORED
        logits = base.get_output_embeddings()(hidden[wanted])
    return functional.cross_entropy(logits.float(), batch.labels[wanted])


def measure_loss(
    model: PeftModel, lessons: Sequence[EncodedLesson], recipe: Recipe, padding: int, device: str
) -> float | None:
    """The mean loss of the learnt tokens of other lessons; None where there are none."""
    total, count = 0.0, 0
    model.eval()
    with torch.no_grad():
        for batch in _pass(lessons, recipe, padding, "validation"):
            tokens = int((batch.labels != IGNORED).sum())
            total += answer_loss(model, batch.to(device), device).item() * tokens
            count += tokens
    return total / count if count else None


def _epochs(
    lessons: Sequence[EncodedLesson], recipe: Recipe, padding: int, steps: int
) -> Iterator[Batch]:
    for _, batch in zip(range(steps), _all_batches(lessons, recipe, padding), strict=False):
        yield batch


def _all_batches(lessons: Sequence[EncodedLesson], recipe: Recipe, padding: int) -> Iterator[Batch]:
    for epoch in range(recipe.epochs):
        yield from _pass(lessons, recipe, padding, f"{recipe.seed} {epoch}")


def _pass(
    lessons: Sequence[EncodedLesson], recipe: Recipe, padding: int, seed: str
) -> Iterator[Batch]:
    if lessons:
        yield from iterate_batches(
            lessons,
            row_tokens=recipe.row_tokens,
            batch_tokens=recipe.batch_tokens,
            padding=padding,
            seed=seed,
        )
