"""Trains the demo models from nothing.

Run as `python -m serve_app.offline.demo.train [--model fast|strong|all]`.

What is interrupted goes on where it was last saved, when it is started again with the same options.
"""

import argparse
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event

import torch
from tokenizers import Tokenizer
from transformers import Qwen3ForCausalLM

from serve_app.demo import CHECKPOINTS, NAMES
from serve_app.offline.demo.architecture import ARCHITECTURES
from serve_app.offline.demo.checkpoint import write_checkpoint
from serve_app.offline.demo.probe import Question, probe, render_line, to_question
from serve_app.offline.demo.testset import draw_testset
from serve_app.offline.demo.tokenizer import build_tokenizer, draw_corpus
from serve_app.offline.demo.training import RECIPES, Recipe, Trainer

WORK = Path(__file__).parent / ".training"
_LINE_S, _SAVE_S, _PROBE_S = 20.0, 120.0, 240.0
# Other questions than those of the test set, which must not steer the training.
_PROBE_SEED, _PROBE_SHARE = 1, 0.5


def main(argv: Sequence[str] | None = None) -> None:
    options = _parse(argv)
    tokenizer = build_tokenizer(draw_corpus())
    for name in NAMES if options.model == "all" else (options.model,):
        recipe = _choose_recipe(RECIPES[name], options)
        questions = draw_questions(options.probe_share)
        train(recipe, tokenizer, questions, options.out, options.work, options.device)


def train(
    recipe: Recipe,
    tokenizer: Tokenizer,
    questions: Sequence[Question],
    out: Path,
    work: Path,
    device: str,
) -> None:
    """One model, from its last saved state to its checkpoint."""
    trainer = Trainer(recipe, tokenizer, device)
    state = work / f"{recipe.name}.pt"
    work.mkdir(parents=True, exist_ok=True)
    if state.exists():
        trainer.resume(state)
        _say(recipe.name, f"resumed at step {trainer.progress.step}")
    log = TrainingLog(trainer, tokenizer, questions, state)
    with _stop_requests() as stop:
        for loss in trainer.run():
            log.take(loss)
            if stop.is_set():
                trainer.save(state)
                sys.exit(f"stopped and saved at step {trainer.progress.step}")
    log.finish()
    directory = out / recipe.name
    write_checkpoint(directory, ARCHITECTURES[recipe.name], tokenizer, trainer.model.state_dict())
    _say(recipe.name, f"wrote {directory}")


@contextmanager
def _stop_requests() -> Iterator[Event]:
    """An interrupt or a termination waits for the end of the step."""
    stop = Event()
    names = (signal.SIGINT, signal.SIGTERM)
    former = [signal.signal(name, lambda *_: stop.set()) for name in names]
    try:
        yield stop
    finally:
        for name, handler in zip(names, former, strict=True):
            signal.signal(name, handler)


class TrainingLog:
    """Says how it goes, probes now and then, and saves the state."""

    def __init__(
        self, trainer: Trainer, tokenizer: Tokenizer, questions: Sequence[Question], state: Path
    ) -> None:
        self._trainer = trainer
        self._tokenizer = tokenizer
        self._state = state
        self._questions = questions
        self._losses: list[float] = []
        self._said_s = self._saved_s = self._probed_s = time.monotonic()
        self._said_tokens = trainer.progress.tokens

    def take(self, loss: float) -> None:
        self._losses.append(loss)
        now_s = time.monotonic()
        if now_s - self._said_s > _LINE_S:
            self._say(now_s)
        if now_s - self._saved_s > _SAVE_S:
            self._trainer.save(self._state)
            self._saved_s = now_s
        if now_s - self._probed_s > _PROBE_S:
            self._probe()
            self._probed_s = self._said_s = time.monotonic()

    def finish(self) -> None:
        self._trainer.save(self._state)
        self._probe()

    def _say(self, now_s: float) -> None:
        progress, done = self._trainer.progress, self._trainer.share_done
        rate = (progress.tokens - self._said_tokens) / (now_s - self._said_s)
        left_s = progress.elapsed_s * (1 / max(done, 1e-9) - 1)
        loss = sum(self._losses) / len(self._losses)
        _say(
            self._trainer.recipe.name,
            f"{done:5.1%}  step {progress.step}  loss {loss:.4f}  {rate:,.0f} tokens/s  "
            f"{progress.elapsed_s / 60:.1f} min done, {left_s / 60:.1f} min left",
        )
        self._losses.clear()
        self._said_s, self._said_tokens = now_s, progress.tokens

    def _probe(self) -> None:
        model = Qwen3ForCausalLM(self._trainer.model.config).to(self._trainer.device)
        model.load_state_dict(self._trainer.model.state_dict())
        judged = list(probe(model.to(torch.bfloat16).eval(), self._tokenizer, self._questions))
        _say(self._trainer.recipe.name, f"probe  {render_line(judged)}")


def draw_questions(share: float) -> list[Question]:
    return [to_question(example) for example in draw_testset(_PROBE_SEED, share)]


def _choose_recipe(recipe: Recipe, options: argparse.Namespace) -> Recipe:
    given = {key: getattr(options, key) for key in ("seed", "steps", "minutes")}
    if options.steps or options.minutes:
        recipe = replace(recipe, review=None)
    return replace(recipe, **{key: value for key, value in given.items() if value is not None})


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m serve_app.offline.demo.train", description=__doc__
    )
    parser.add_argument("--model", choices=[*NAMES, "all"], default="all")
    parser.add_argument("--seed", type=int)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int, help="instead of the whole recipe")
    length.add_argument("--minutes", type=float, help="the same; not repeatable to the bit")
    parser.add_argument("--out", type=Path, default=CHECKPOINTS)
    parser.add_argument("--work", type=Path, default=WORK, help="where states are saved")
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--probe-share",
        type=float,
        default=_PROBE_SHARE,
        help="questions of a probe, as a share of the size of the test set",
    )
    options = parser.parse_args(argv)
    if options.device == "auto":
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    return options


def _say(name: str, text: str) -> None:
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {name:<6} {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
