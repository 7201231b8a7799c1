"""The `serve-app` command."""

from __future__ import annotations

import typer

from serve_app.bench.command import overhead
from serve_app.bench.gpu.command import gpu
from serve_app.bench.leases import leases
from serve_app.bench.replicas import replicas
from serve_app.bench.scaling import scaling
from serve_app.bench.scorer import scorer
from serve_app.cli.calibrate import calibrate
from serve_app.cli.check import check
from serve_app.cli.config_docs import config_docs
from serve_app.cli.convert import convert
from serve_app.cli.doctor import doctor
from serve_app.cli.down import down
from serve_app.cli.drain_node import drain_node
from serve_app.cli.environment import environment
from serve_app.cli.evaluate import evaluate
from serve_app.cli.learn import learn
from serve_app.cli.manifests import manifests
from serve_app.cli.plan import plan
from serve_app.cli.up import up
from serve_app.cli.verify import verify

app = typer.Typer(
    help="Self-hosted models behind one OpenAI-compatible address.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(up)
app.command()(down)
app.command()(check)
app.command()(doctor)
app.command()(plan)
app.command()(verify)
app.command()(convert)
app.command("env")(environment)
app.command("drain-node")(drain_node)
app.command()(evaluate)
app.command()(calibrate)
app.command()(learn)
app.command("config-docs")(config_docs)
app.command()(manifests)

bench = typer.Typer(help="Benchmarks of this machine.", no_args_is_help=True)
bench.command("overhead")(overhead)
bench.command("scorer")(scorer)
bench.command("scaling")(scaling)
bench.command("replicas")(replicas)
bench.command("leases")(leases)
bench.command("gpu")(gpu)
app.add_typer(bench, name="bench")


def main() -> None:
    """The console script."""
    app()


if __name__ == "__main__":
    main()
