"""`serve-app pin`: write the identity of each model's files into a config."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from serve_app.cli.check import read_or_exit
from serve_app.cli.verify import terminal_progress
from serve_app.config.app import AppConfig
from serve_app.config.edit import NotEditable, Value, set_tier_keys
from serve_app.config.reader import process_environment
from serve_app.config.tiers import DEMO_PREFIX, TierConfig
from serve_app.model_files.finding import printable
from serve_app.model_files.integrity import is_read_by_engines, make_sums
from serve_app.offline.checkpoints.checkout import UnclearCommit, find_commit, find_snapshot

Change = tuple[tuple[str, ...], Value]


class NothingToPin(Exception):
    """This machine has no files to pin a tier to; the message names the next step."""


def pin(
    config: Annotated[
        Path, typer.Argument(help="A Serve config file, for example configs/prod.yaml.")
    ],
    tier: Annotated[str | None, typer.Option(help="Pin only this tier.")] = None,
    model_dir: Annotated[
        Path | None,
        typer.Option(
            "--from",
            file_okay=False,
            help="The model's directory on this machine, if nodes have another directory.",
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            file_okay=False,
            help="The hub's cache on this machine. Default: HF_HUB_CACHE, or hub in HF_HOME or "
            "~/.cache/huggingface.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the config instead of writing it.")
    ] = False,
) -> None:
    """Pin each tier to the model files on this machine, by the hub's commit or by SHA-256 sums.

    A variant is pinned as the tier TIER--NAME, unless its tier pins it. `engine.revision` is
    written if the commit is known, `sha256sums` if the tier reads a directory. Nothing is
    downloaded. Exit code 1: this machine has no files to pin a tier to.
    """
    tiers = [one for one in _list_own(read_or_exit(config).app) if tier in (None, one.name)]
    if not tiers or (model_dir is not None and len(tiers) != 1):
        _refuse("name one tier of the config: --tier NAME", 2)
    text = config.read_text(encoding="utf-8")
    try:
        for one in tiers:
            for path, value in find_changes(one, model_dir, cache or _default_cache()):
                text = set_tier_keys(text, one.name, path, value)
                _say(one.name, path, value)
    except (NothingToPin, NotEditable, UnclearCommit, OSError) as error:
        _refuse(f"{config}: {error}", 1)
    if dry_run:
        typer.echo(text, nl=False)
    else:
        config.write_text(text, encoding="utf-8")


def _list_own(app: AppConfig) -> list[TierConfig]:
    """The tiers, and the variants that do not read their tier's files by their tier's arguments."""
    inherit = {
        each.deployed_name
        for each in app.variants
        if each.model_source is None and each.engine is None
    }
    return [tier for tier in app.deployed if tier.name not in inherit]


def find_changes(tier: TierConfig, given: Path | None, cache: Path) -> Iterator[Change]:
    """The changes for a tier.

    Raises:
        NothingToPin: this machine does not have the tier's files.
        UnclearCommit: the files are from several commits.
    """
    if tier.source.startswith(DEMO_PREFIX):
        return
    directory = given or _locate(tier, cache)
    commit = find_commit(directory)
    if commit is not None:
        yield ("engine", "revision"), commit
    elif not tier.source.startswith("/"):
        raise NothingToPin(f"tiers.{tier.name}: {directory} does not record its commit")
    if tier.source.startswith("/"):
        sums = make_sums(directory, terminal_progress())
        yield ("sha256sums",), {name: sums[name] for name in sums if is_read_by_engines(name)}


def _locate(tier: TierConfig, cache: Path) -> Path:
    source = tier.source
    if source.startswith("/"):
        if not Path(source).is_dir():
            raise NothingToPin(
                f"tiers.{tier.name}.model_source: {source} is not here; run this on a node, or "
                "name the directory: --from DIR --tier NAME"
            )
        return Path(source)
    revision = tier.engine.get("revision")
    found = find_snapshot(cache, source, revision if isinstance(revision, str) else None)
    if found is None:
        raise NothingToPin(
            f"tiers.{tier.name}: {cache} has no snapshot of {source}; get one first: "
            f"hf download {source}"
        )
    return found


def _default_cache() -> Path:
    environment = process_environment()
    if named := environment.get("HF_HUB_CACHE"):
        return Path(named)
    home = environment.get("HF_HOME")
    return (Path(home) if home else Path.home() / ".cache" / "huggingface") / "hub"


def _say(tier: str, path: tuple[str, ...], value: Value) -> None:
    shown = value if isinstance(value, str) else f"{len(value)} files"
    typer.echo(f"{tier}: {'.'.join(path)}: {printable(shown)}", err=True)


def _refuse(message: str, code: int) -> None:
    typer.echo(printable(message), err=True)
    raise typer.Exit(code)
