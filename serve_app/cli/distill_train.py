"""`serve-app distill train`: fit a LoRA adapter to a training set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serve_app.core.outputs import OutputUnusable, make_directory
from serve_app.offline.distill.distill_errors import DistillFailed

if TYPE_CHECKING:  # it brings torch along
    from serve_app.offline.distill.teaching import Taught
    from serve_app.offline.distill.training import Step

_LINES = 20
VLLM_RANK_MAX = 16
"""vLLM's `max_lora_rank`, unless `engine` says otherwise."""
_RANKS = (8, 16, 32, 64, 128, 256)


def train(
    directory: Annotated[Path, typer.Argument(help="What `serve-app distill data` has written.")],
    base: Annotated[str, typer.Option(help="The model to teach: a directory, or `demo:fast`.")],
    out: Annotated[Path, typer.Option(file_okay=False, help="Directory for the adapter.")],
    merged: Annotated[
        Path | None,
        typer.Option(
            file_okay=False,
            help="Also write a whole checkpoint here, for a tier or a variant that `auto` uses.",
        ),
    ] = None,
    rank: Annotated[int, typer.Option(help=f"Rank of the adapter: one of {_RANKS}.")] = 16,
    alpha: Annotated[
        int | None, typer.Option(min=1, help="Weight of the adapter. Default: twice the rank.")
    ] = None,
    dropout: Annotated[float, typer.Option(min=0, max=0.9)] = 0.0,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the lessons.")] = 3,
    learning_rate: Annotated[float, typer.Option(min=0, help="Its highest value.")] = 2e-4,
    batch_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a step.")] = 8192,
    row_tokens: Annotated[
        int,
        typer.Option(
            min=16, help="Tokens of a row, which is packed with lessons; longer ones are left out."
        ),
    ] = 2048,
    steps_max: Annotated[
        int | None, typer.Option(min=1, help="End after so many steps, if not before.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the adapter and of the order.")] = 0,
    device: Annotated[str, typer.Option(help="`cpu`, `cuda` or `auto`.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of torch on the CPU.")] = None,
) -> None:
    """Fit a LoRA adapter to a training set; only the answers are learnt, not the questions."""
    if rank not in _RANKS:
        raise typer.BadParameter(f"{rank} is none of {_RANKS}", param_hint="--rank")
    # Imported here, because torch takes seconds to import.
    import torch

    from serve_app.offline.distill.teaching import choose_device, teach
    from serve_app.offline.distill.training import Recipe

    if threads is not None:
        torch.set_num_threads(threads)
    recipe = Recipe(
        rank=rank,
        alpha=alpha or 2 * rank,
        dropout=dropout,
        epochs=epochs,
        learning_rate=learning_rate,
        batch_tokens=batch_tokens,
        row_tokens=row_tokens,
        steps_max=steps_max,
        seed=seed,
    )
    try:
        for path in (out, merged):
            if path is not None:
                make_directory(path.parent)
                _refuse_foreign(path)
        taught = teach(directory, base, out, merged, recipe, choose_device(device), _show)
    except (DistillFailed, OutputUnusable) as failure:
        _say(str(failure))
        raise typer.Exit(1) from None
    _report(taught, out, merged, rank)


def _refuse_foreign(path: Path) -> None:
    """A directory that holds anything but an earlier result is not replaced."""
    if path.is_dir() and any(path.iterdir()) and not (path / "training.json").is_file():
        raise OutputUnusable(path, "it holds other files than an earlier result; name a new one")


def _show(step: Step) -> None:
    if step.number % max(1, step.of // _LINES) == 0 or step.number == step.of:
        _say(
            f"step {step.number} of {step.of}  loss {step.loss:.3f}  "
            f"{step.tokens / step.elapsed_s:,.0f} tokens/s  {step.elapsed_s:.0f} s"
        )


def _report(taught: Taught, out: Path, merged: Path | None, rank: int) -> None:
    before, after = taught.validation_loss_before, taught.validation_loss
    typer.echo(
        f"{taught.lessons} lessons, {taught.tokens:,} tokens, {taught.learnt_tokens:,} of them "
        f"learnt; {taught.too_long} lessons too long; padding {taught.padding_ratio:.1%}"
    )
    if before is not None and after is not None:
        typer.echo(f"loss on the lessons that were not learnt: {before:.3f}, then {after:.3f}")
    typer.echo(f"Wrote the adapter {out}. To serve it under a name of its own, in its tier:")
    typer.echo(f"  adapters: {{NAME: {out.resolve()}}}")
    if rank > VLLM_RANK_MAX:
        typer.echo(f"  engine: {{max_lora_rank: {rank}}}   # beside the other keys")
    if merged is not None:
        typer.echo(f"Wrote the checkpoint {merged}. To give it a share of a tier's calls:")
        typer.echo("  variants:")
        typer.echo(f"    - {{tier: TIER, name: distilled, model_source: {merged.resolve()},")
        typer.echo("       sha256sums: SHA256SUMS}")
        typer.echo("  serve-app canary set CONFIG TIER distilled 10%")


def _say(text: str) -> None:
    typer.echo(text, err=True)
