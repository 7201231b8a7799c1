"""The training loop: steps over batches, a schedule, and a state that can be saved and resumed."""

import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional
from transformers import Qwen3Config, Qwen3ForCausalLM

from serve_app.offline.demo.architecture import ARCHITECTURES, render_config
from serve_app.offline.demo.batches import (
    CHUNK_CONVERSATIONS,
    IGNORED,
    Batch,
    Batches,
    Position,
)
from serve_app.offline.demo.diet import DIETS, REVIEWS
from serve_app.offline.demo.tokenizer import END_OF_TEXT, TURN_END

_WARMUP_STEPS = 100
_GRADIENT_NORM_MAX = 1.0
_WEIGHT_DECAY = 0.05


@dataclass(frozen=True)
class Review:
    """A second, shorter pass over what was learnt worst; its rate falls from the start."""

    steps: int
    learning_rate: float


@dataclass(frozen=True)
class Recipe:
    """How one model is trained; `minutes` ends the first pass by the clock, not after `steps`.

    Batches are cut from chunks of `chunk_conversations`, each sorted by length.
    """

    name: str
    seed: int
    steps: int
    batch_tokens: int
    learning_rate: float
    # The share of the training at whose end the learning rate falls to nothing.
    decay_share: float
    review: Review | None = None
    minutes: float | None = None
    chunk_conversations: int = CHUNK_CONVERSATIONS


RECIPES = {
    "fast": Recipe("fast", 7, 1500, 4096, 3e-3, 0.5, Review(1200, 1.5e-3)),
    "strong": Recipe("strong", 72, 1800, 4096, 2e-3, 0.5, Review(900, 1e-3)),
}


@dataclass
class Progress:
    """Where a training is; saved with the weights. `step` counts both passes."""

    step: int = 0
    first_pass_steps: int | None = None
    tokens: int = 0
    elapsed_s: float = 0.0
    position: Position = field(default_factory=Position)


class Trainer:
    """Trains one model from nothing, or from a saved state."""

    def __init__(self, recipe: Recipe, tokenizer: Tokenizer, device: str) -> None:
        self.recipe = recipe
        self.device = device
        self.progress = Progress()
        torch.manual_seed(recipe.seed)
        self.model = build_model(recipe.name, tokenizer).to(device)
        self._optimizers = build_optimizers(self.model, recipe)
        name, seed = recipe.name, recipe.seed
        size = recipe.batch_tokens, recipe.chunk_conversations
        self._first_pass = Batches(tokenizer, DIETS[name], f"{seed}", *size)
        self._review = Batches(tokenizer, REVIEWS[name], f"{seed} review", *size)

    def run(self) -> Iterator[float]:
        """The loss of each step, until the training is over."""
        if self.progress.first_pass_steps is None:
            yield from self._pass(self._first_pass)
            self.progress.first_pass_steps = self.progress.step
            self.progress.position = Position()
        if self.recipe.review is not None:
            yield from self._pass(self._review)

    def _pass(self, batches: Batches) -> Iterator[float]:
        for batch in batches.iterate(self.progress.position):
            if self.pass_done >= 1:
                return
            started_s = time.perf_counter()
            loss = self._step(batch)
            self.progress.step += 1
            self.progress.tokens += batch.ids.numel()
            self.progress.elapsed_s += time.perf_counter() - started_s
            self.progress.position = batch.next
            yield loss

    @property
    def share_done(self) -> float:
        """Of the whole training, by steps."""
        review = self.recipe.review.steps if self.recipe.review is not None else 0
        if self.progress.first_pass_steps is None:
            return self.pass_done * self.recipe.steps / (self.recipe.steps + review)
        return self.progress.step / (self.progress.first_pass_steps + review)

    @property
    def pass_done(self) -> float:
        """Of the pass that is going on."""
        progress, review = self.progress, self.recipe.review
        if progress.first_pass_steps is not None:
            return (progress.step - progress.first_pass_steps) / review.steps if review else 1.0
        if self.recipe.minutes is not None:
            return progress.elapsed_s / (self.recipe.minutes * 60)
        return progress.step / self.recipe.steps

    def save(self, path: Path) -> None:
        """An interruption leaves the old state or the new one, never half of one."""
        scratch = path.with_suffix(".tmp")
        state = {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
            "progress": asdict(self.progress),
        }
        torch.save(state, scratch)
        os.replace(scratch, path)

    def resume(self, path: Path) -> None:
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        progress = state["progress"]
        self.progress = Progress(**progress | {"position": Position(**progress["position"])})

    def _step(self, batch: Batch) -> float:
        rate = self._choose_rate()
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        loss = self._loss(batch.ids.to(self.device), batch.labels.to(self.device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), _GRADIENT_NORM_MAX)
        for optimizer in self._optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return float(loss.item())

    def _choose_rate(self) -> float:
        first, review = self.progress.first_pass_steps, self.recipe.review
        if first is None or review is None:
            scale = choose_rate(self.progress.step, self.pass_done, self.recipe.decay_share)
            return self.recipe.learning_rate * scale
        return review.learning_rate * choose_rate(self.progress.step - first, self.pass_done, 1.0)

    def _loss(self, ids: Tensor, labels: Tensor) -> Tensor:
        """Only what the assistant says is taught, so only that is projected to the vocabulary."""
        with torch.autocast(self.device, torch.bfloat16):
            hidden = self.model.model(input_ids=ids, use_cache=False).last_hidden_state
            wanted = labels != IGNORED
            logits = functional.linear(hidden[wanted], self.model.lm_head.weight)
        return functional.cross_entropy(logits.float(), labels[wanted])


def choose_rate(step: int, share_done: float, decay_share: float) -> float:
    """A short rise, a plateau, and a straight fall to nothing."""
    rise = min(1.0, (step + 1) / _WARMUP_STEPS)
    return rise * min(1.0, max(0.0, 1 - share_done) / decay_share)


def build_model(name: str, tokenizer: Tokenizer) -> Qwen3ForCausalLM:
    """Random weights in the shape that config.json will state."""
    vocab = tokenizer.get_vocab()
    config = Qwen3Config.from_dict(
        render_config(ARCHITECTURES[name], vocab[END_OF_TEXT], vocab[TURN_END])
    )
    return Qwen3ForCausalLM(config).float()


def build_optimizers(model: Qwen3ForCausalLM, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, which learns from fewer tokens; AdamW for the rest."""
    layers = [p for name, p in model.named_parameters() if p.ndim == 2 and "layers" in name]
    chosen = {id(parameter) for parameter in layers}
    others = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(
            layers,
            lr=recipe.learning_rate,
            weight_decay=_WEIGHT_DECAY,
            adjust_lr_fn="match_rms_adamw",
        ),
        torch.optim.AdamW(others, lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]
