"""The `serve-app` command."""

from __future__ import annotations

import sys
from collections.abc import Callable

import typer

from serve_app.cli.lazy import LazyCommand, LazyGroup

EXTRA_OF = {
    "PIL": "evaluate",
    "cryptography": "access",
    "jsonschema": "evaluate",
    "jwt": "access",
    "limits": "bench",
    "peft": "distill",
    "redis": "redis",
    "sklearn": "learn",
    "threadpoolctl": "learn",
}
"""The extra of pyproject.toml for each module that not every installation has."""


class Commands(LazyGroup):
    """The commands of an operator; the help of each is the first paragraph of its docstring."""

    lazy = (
        LazyCommand(
            "up",
            "serve_app.cli.up:up",
            "Start the service on this machine and wait; Ctrl-C or `serve-app down` stops it.",
        ),
        LazyCommand(
            "status",
            "serve_app.cli.status:status",
            "Show tiers, replicas, waits, shares, savings and alarms of a running service.",
        ),
        LazyCommand(
            "logs",
            "serve_app.cli.logs:logs",
            "Print the access logs and Serve's logs of all nodes, in the order of time.",
        ),
        LazyCommand(
            "reload",
            "serve_app.cli.reload:reload",
            "Give the running Routers the `user_config` of a file, once all of it has been"
            " checked.",
        ),
        LazyCommand(
            "down",
            "serve_app.cli.down:down",
            "Stop the service and every process that it started.",
        ),
        LazyCommand(
            "chat",
            "serve_app.cli.chat:chat",
            "Talk to a model in the terminal; `echo question | serve-app chat` answers one"
            " question.",
        ),
        LazyCommand(
            "check",
            "serve_app.cli.check:check",
            "Validate a config: every key, and every engine argument against the pinned vLLM.",
        ),
        LazyCommand(
            "doctor",
            "serve_app.cli.doctor:doctor",
            "Report what stops a config from running well here, why it matters, and how to mend "
            "it.",
        ),
        LazyCommand(
            "plan",
            "serve_app.cli.plan:plan",
            "Compute whether a config fits, how fast it could be, and which resources it needs.",
        ),
        LazyCommand(
            "measure-rates",
            "serve_app.cli.measure_rates:measure",
            "Measure the tokens per second that a replica of one tier reads and writes in typical "
            "calls.",
        ),
        LazyCommand(
            "verify",
            "serve_app.cli.verify:verify",
            "Check a model: sums, safetensors, config, tokenizer, template; no pickles.",
        ),
        LazyCommand(
            "pin",
            "serve_app.cli.pin:pin",
            "Pin each tier to the model files on this machine, by the hub's commit or by SHA-256 "
            "sums.",
        ),
        LazyCommand(
            "convert",
            "serve_app.cli.convert:convert",
            "Convert a checkpoint to safetensors, with tokenizer, template and SHA256SUMS.",
        ),
        LazyCommand(
            "env",
            "serve_app.cli.environment:environment",
            'Print the environment for `ray start` and `serve run`: eval "$(serve-app env)".',
        ),
        LazyCommand(
            "drain-node",
            "serve_app.cli.drain_node:drain_node",
            "Ask Ray to move this node's replicas elsewhere, and wait until they and its proxy "
            "have ended.",
        ),
        LazyCommand(
            "evaluate",
            "serve_app.cli.evaluate:evaluate",
            "Ask a running endpoint labelled questions, and report each model's accuracy and "
            "speed.",
        ),
        LazyCommand(
            "calibrate",
            "serve_app.cli.calibrate:calibrate",
            "Report cost and quality of each share of strong calls, and the user_config for a "
            "budget.",
        ),
        LazyCommand(
            "learn",
            "serve_app.cli.learn:learn",
            "Learn from labelled calls which calls need the strong model, and measure the result.",
        ),
        LazyCommand(
            "config-docs",
            "serve_app.cli.config_docs:config_docs",
            "Print the page on every config key.",
        ),
        LazyCommand(
            "manifests",
            "serve_app.cli.manifests:manifests",
            "Write the files that are generated from a config, for Kubernetes and for systemd "
            "machines.",
        ),
        LazyCommand(
            "scale-pool",
            "serve_app.cli.scale_pool:scale_pool",
            "Print a JSON patch for a running RayCluster: the number of pods of each pool.",
        ),
    )


class Benchmarks(LazyGroup):
    """The commands of `serve-app bench`."""

    lazy = (
        LazyCommand(
            "overhead",
            "serve_app.offline.bench.command:overhead",
            "Measure this service, its rivals and the bare engine in turn, and compare them.",
        ),
        LazyCommand(
            "scorer",
            "serve_app.offline.bench.scorer:scorer",
            "Time the scorers on the same prompts, alternating, so that other load affects all "
            "alike.",
        ),
        LazyCommand(
            "scaling",
            "serve_app.offline.bench.scaling:scaling",
            "Simulate both tiers under five traces: missed calls, GPU-hours, changes of direction.",
        ),
        LazyCommand(
            "replicas",
            "serve_app.offline.bench.replicas:replicas",
            "Start the service in several sizes with simulated engines, and compare the sizes.",
        ),
        LazyCommand(
            "clients",
            "serve_app.offline.bench.clients:clients",
            "Compare the CPU time of a call in this service's HTTP client, in aiohttp and in"
            " httpx.",
        ),
        LazyCommand(
            "transport",
            "serve_app.offline.bench.transport:transport",
            "Compare TLS with plain HTTP between a Router's client and a replica's server.",
        ),
        LazyCommand(
            "gateway",
            "serve_app.offline.bench.gateway.command:gateway",
            "Measure a Router before an engine of recorded bytes, beside other gateways.",
        ),
        LazyCommand(
            "gpu",
            "serve_app.offline.bench.gpu.command:gpu",
            "Compare plan and doctor with measurements of one GPU, and the service with bare vLLM.",
        ),
        LazyCommand(
            "leases",
            "serve_app.offline.bench.leases:leases",
            "Time a Router's own work per call, without Ray: leases, connections, load, sessions.",
        ),
        LazyCommand(
            "limits",
            "serve_app.offline.bench.limits:limits",
            "Time reserving and settling a call over Redis and over the owner, beside a peer.",
        ),
        LazyCommand(
            "cache",
            "serve_app.offline.bench.cache:cache",
            "Measure a running service with and without its cache of answers.",
        ),
        LazyCommand(
            "fairness",
            "serve_app.offline.bench.fairness:fairness",
            "Flood one tier with the calls of one tenant, and time the first tokens of the others.",
        ),
        LazyCommand(
            "overload",
            "serve_app.offline.bench.overload:overload",
            "Send a tier ten times the calls that it can answer; count those that begin in time.",
        ),
        LazyCommand(
            "hedging",
            "serve_app.offline.bench.hedging:hedging",
            "Send a tier whose engines pause the same calls with hedging and without.",
        ),
        LazyCommand(
            "access",
            "serve_app.offline.bench.access:access",
            "Measure the CPU time that a call needs to show who asks, by API key and by token.",
        ),
        LazyCommand(
            "audit",
            "serve_app.offline.bench.audit:audit",
            "Time what the audit log costs a call, and how fast it is written, verified and"
            " summed.",
        ),
        LazyCommand(
            "traces",
            "serve_app.offline.bench.traces:traces",
            "Measure the CPU time that traces cost a call, by the share of calls that are traced.",
        ),
        LazyCommand(
            "prefix",
            "serve_app.offline.bench.prefix:prefix",
            "Time the keys of a prompt, the search over all replicas and their ranking, without"
            " Ray.",
        ),
        LazyCommand(
            "prefix-trace",
            "serve_app.offline.bench.prefix_trace:prefix_trace",
            "Simulate rules for the choice of a replica on a trace of calls that share beginnings.",
        ),
        LazyCommand(
            "batch-beside-chat",
            "serve_app.offline.bench.batch_beside_chat:batch_beside_chat",
            "Compare chat alone, a batch alone, and both, in turn on one real service.",
        ),
        LazyCommand(
            "batch-in-engine",
            "serve_app.offline.bench.batch_in_engine:batch_in_engine",
            "Compare chat, a batch and both in one engine, by a clock that other programs do not"
            " move.",
        ),
        LazyCommand(
            "placing",
            "serve_app.offline.bench.placing.command:placing",
            "Compare the choices of a replica on three real engines with small prefix caches.",
        ),
        LazyCommand(
            "prefix-queue",
            "serve_app.offline.bench.prefix_queue:prefix_queue",
            "Simulate which call gets a freed place, on a trace of calls that share beginnings.",
        ),
        LazyCommand(
            "prefix-tiers",
            "serve_app.offline.bench.prefix_tiers:prefix_tiers",
            "Simulate what a weight of cached conversations saves, and which calls it moves.",
        ),
        LazyCommand(
            "probe",
            "serve_app.offline.probing.command:probe",
            "Measure what the demo's fast model knows of a question before it answers, and its"
            " labels.",
        ),
        LazyCommand(
            "conversations",
            "serve_app.offline.probing.conversations_command:conversations",
            "Measure accuracy and switches of conversations with and without stickiness.",
        ),
    )


class Keys(LazyGroup):
    """The commands of `serve-app keys`."""

    lazy = (
        LazyCommand(
            "create",
            "serve_app.cli.keys:create",
            "Make a key and show it, this once; makes the store if it does not exist.",
        ),
        LazyCommand(
            "list",
            "serve_app.cli.keys:list_keys",
            "List all keys with their state and their last use.",
        ),
        LazyCommand(
            "show",
            "serve_app.cli.keys:show",
            "Show everything that is kept of a key, except its hash.",
        ),
        LazyCommand(
            "rotate",
            "serve_app.cli.keys:rotate",
            "Give a key a new secret and show it, this once; the old one stays valid for a time.",
        ),
        LazyCommand(
            "revoke",
            "serve_app.cli.keys:revoke",
            "End a key for good; every Router refuses it within 5 seconds.",
        ),
    )


class Distill(LazyGroup):
    """The commands of `serve-app distill`."""

    lazy = (
        LazyCommand(
            "data",
            "serve_app.cli.distill:data",
            "Turn a feedback log into chat JSONL to train on, with a card that counts what was"
            " dropped.",
        ),
        LazyCommand(
            "train",
            "serve_app.cli.distill_train:train",
            "Fit a LoRA adapter to a training set; only the answers are learnt, not the questions.",
        ),
        LazyCommand(
            "compare",
            "serve_app.cli.distill_compare:compare",
            "Compare two models by their answers, and by the strong calls that each needs.",
        ),
    )


class AuditCommands(LazyGroup):
    """The commands of `serve-app audit`."""

    lazy = (
        LazyCommand(
            "keygen",
            "serve_app.cli.audit:keygen",
            "Make a key for the audit log: the file for `audit.key_file`, and the public key to"
            " verify.",
        ),
        LazyCommand(
            "verify",
            "serve_app.cli.audit:verify",
            "Find every record that was edited, dropped, inserted, moved or cut off, by file and"
            " line.",
        ),
        LazyCommand(
            "report",
            "serve_app.cli.audit:report",
            "Sum calls, errors, tokens, money and savings of an audit log.",
        ),
    )


class Certificates(LazyGroup):
    """The commands of `serve-app certs`."""

    lazy = (
        LazyCommand(
            "dev",
            "serve_app.cli.certs:dev",
            "Make a local authority, and certificates for the service and for one client.",
        ),
        LazyCommand(
            "show",
            "serve_app.cli.certs:show",
            "Show for whom certificates are, and until when.",
        ),
    )


class Canary(LazyGroup):
    """The commands of `serve-app canary`."""

    lazy = (
        LazyCommand(
            "status",
            "serve_app.cli.canary:status",
            "Show the share, the calls and the bad ends of each variant, over all Routers.",
        ),
        LazyCommand(
            "set",
            "serve_app.cli.canary:set_share",
            "Give a variant a share of its tier's calls, in the file and in the running Routers.",
        ),
        LazyCommand(
            "promote",
            "serve_app.cli.canary:promote",
            "Give a variant all calls of its tier, if it has as many replicas as the incumbent.",
        ),
        LazyCommand(
            "abort",
            "serve_app.cli.canary:abort",
            "Give all calls of a variant back to the incumbent.",
        ),
    )


app = typer.Typer(
    cls=Commands,
    help="Self-hosted models behind one OpenAI-compatible address.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(
    typer.Typer(cls=Benchmarks, help="Benchmarks of this machine.", no_args_is_help=True),
    name="bench",
)
app.add_typer(
    typer.Typer(cls=Canary, help="Variants of tiers on trial.", no_args_is_help=True),
    name="canary",
)
app.add_typer(
    typer.Typer(
        cls=Distill, help="A small model learns the large model's answers.", no_args_is_help=True
    ),
    name="distill",
)
app.add_typer(
    typer.Typer(cls=Keys, help="API keys of a config.", no_args_is_help=True),
    name="keys",
)
app.add_typer(
    typer.Typer(cls=AuditCommands, help="The audit log of calls.", no_args_is_help=True),
    name="audit",
)
app.add_typer(
    typer.Typer(cls=Certificates, help="Certificates for TLS.", no_args_is_help=True),
    name="certs",
)


def main(run: Callable[[], object] = app) -> None:
    """Run the console script; a missing package of an extra is one line and no traceback."""
    try:
        run()
    except ModuleNotFoundError as missing:
        module = (missing.name or "").partition(".")[0]
        if module not in EXTRA_OF:
            raise
        extra = EXTRA_OF[module]
        sys.exit(f"{module} is not installed here; pip install 'serve-app[{extra}]' brings it.")


if __name__ == "__main__":
    main()
