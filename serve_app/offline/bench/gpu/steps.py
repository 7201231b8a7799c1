"""The steps of the check; a step that fails does not stop the other steps."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson

from serve_app.config.environment import ray_environment
from serve_app.config.reader import ServeConfig
from serve_app.config.tiers import TierConfig
from serve_app.demo import CheckpointMissing
from serve_app.offline.bench.bench_errors import BenchFailed
from serve_app.offline.bench.generator import LoadGenerator
from serve_app.offline.bench.gpu.asking import Server
from serve_app.offline.bench.gpu.driver import read_used_gib
from serve_app.offline.bench.gpu.engine_log import parse_engine_log
from serve_app.offline.bench.gpu.gpu_errors import KernelsFailed
from serve_app.offline.bench.gpu.rates import Rates
from serve_app.offline.bench.gpu.results import ReplicaRates, Results, Said, Step
from serve_app.offline.bench.gpu.servers import OURS, build_bare, build_service
from serve_app.offline.bench.gpu.weightless import write_model
from serve_app.offline.bench.ownership import owned
from serve_app.offline.bench.phase import Phase
from serve_app.offline.bench.runner import find_free_port
from serve_app.offline.bench.targets import HOST, Target

DONE = "done"
_COMMAND_S = 120.0
_TAIL = 1500
_PROMPT_TOKENS, _OUTPUT_TOKENS = 256, 128
"""Of the calls that `measure-rates` makes. With longer prompts and shorter answers the prompts take
all the time, and the command fails."""


@dataclass(frozen=True)
class Settings:
    """How long and how much."""

    batches: Sequence[int] = (1, 8, 64)
    output_tokens: int = 64
    prompts: Sequence[int] = (1024, 4096)
    warmup_s: float = 3.0
    window_s: float = 10.0
    start_s: float = 420.0
    budget_s: float = 720.0


class Check:
    """One run over one config; the servers' logs go into a directory beside the results."""

    def __init__(
        self,
        path: Path,
        config: ServeConfig,
        settings: Settings,
        results: Results,
        output: Path,
        say: Callable[[str], None],
    ) -> None:
        self._path, self._config, self._settings = path, config, settings
        self._results, self._output, self._say = results, output, say
        self._logs = output.with_suffix("")
        self._began = time.monotonic()

    def run(self, names: Sequence[str], generator: LoadGenerator) -> bool:
        """Take the named steps in order; whether none of them failed."""
        self._logs.mkdir(parents=True, exist_ok=True)
        acts: Mapping[str, Callable[[], str]] = {
            "models": self._write_models,
            "doctor": self._ask_doctor,
            "kernels": self._measure_kernels,
            "bare": lambda: self._measure_bare(generator),
            "service": lambda: self._measure_service(generator),
        }
        for name in names:
            self._take(name, acts[name])
        return all(step.good for step in self._results.steps)

    def _take(self, name: str, act: Callable[[], str]) -> None:
        left_s = self._settings.budget_s - (time.monotonic() - self._began)
        if left_s <= 0:
            outcome = f"left out: the budget of {self._settings.budget_s:g} s is spent"
            self._note(Step(name, 0.0, outcome, good=False))
            return
        began, outcome, good = time.monotonic(), "cut short", False
        try:
            outcome, good = act(), True
        except (BenchFailed, CheckpointMissing, OSError) as error:
            outcome = f"failed: {str(error).splitlines()[0]}"
            self._say(str(error))
        finally:
            self._note(Step(name, time.monotonic() - began, outcome, good))

    def _note(self, step: Step) -> None:
        self._results.steps.append(step)
        self._save()
        self._say(f"{step.name}: {step.outcome} ({step.seconds:.0f} s)")

    def _save(self) -> None:
        self._results.write(self._output)

    @property
    def _tiers(self) -> Sequence[TierConfig]:
        return self._config.app.tiers

    def _write_models(self) -> str:
        written = [tier.name for tier in self._tiers if write_model(tier) is not None]
        return f"{DONE}, without weights: {', '.join(written)}" if written else "not needed"

    def _ask_doctor(self) -> str:
        # As the service is started: `serve-app up` sets this by itself.
        env = {**ray_environment(), "RAY_AUTH_MODE": "token"}
        done = _run([*OURS, "doctor", str(self._path), "--json"], env)
        if done.returncode not in (0, 1):
            raise BenchFailed(f"doctor ended with {done.returncode}: {done.stderr[-_TAIL:]}")
        found = orjson.loads(done.stdout)
        self._results.doctor = [Said(f["level"], f["check"], f["what"]) for f in found]
        return DONE

    def _measure_kernels(self) -> str:
        flags = [] if self._results.gpu else ["--cpu"]
        done = _run([sys.executable, "-m", f"{__package__}.kernels", *flags])
        if done.returncode != 0:
            raise KernelsFailed(done.stderr[-_TAIL:])
        self._results.rates = Rates(**orjson.loads(done.stdout))
        return DONE

    def _measure_bare(self, generator: LoadGenerator) -> str:
        """All engines side by side, as in the service, so that both have the same neighbours."""
        with ExitStack() as stack:
            servers = []
            for tier in self._tiers:
                port = find_free_port()
                started = self._start(build_bare(tier, port), port, "bare")
                servers.append(stack.enter_context(started))
            pairs = list(zip(self._tiers, servers, strict=True))
            for tier, server in pairs:
                self._wait(server, tier)
                self._results.engines[tier.name] = parse_engine_log(server.owned.read_log())
            for tier, server in pairs:
                self._measure_prompts(tier, server)
                self._measure_streams(tier, server, generator)
        return DONE

    def _measure_service(self, generator: LoadGenerator) -> str:
        # A short path, because Ray keeps Unix sockets below it.
        with tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp") as scratch:
            port = find_free_port()
            target = build_service(self._config, port, Path(scratch))
            with self._start(target, port, "service") as server:
                for tier in self._tiers:
                    self._wait(server, tier)
                self._results.card_used_gib = read_used_gib()
                for tier in self._tiers:
                    self._measure_streams(tier, server, generator)
                self._take("rates", lambda: self._measure_rates(server))
        return DONE

    def _measure_rates(self, server: Server) -> str:
        """By the command that operators use, on the service that runs for the step before."""
        command = [*OURS, "measure-rates"]
        if _run([*command, "--help"]).returncode != 0:
            return "left out: this version has no `measure-rates`"
        for tier in self._tiers:
            options = {
                "base-url": f"http://{HOST}:{server.port}/v1",
                "seconds": self._settings.window_s / 2,
                "prompt-tokens": _PROMPT_TOKENS,
                "output-tokens": _OUTPUT_TOKENS,
            }
            flags = [f"--{name}={value}" for name, value in options.items()]
            done = _run([*command, str(self._path), tier.name, *flags, "--json"])
            if done.returncode != 0:
                raise BenchFailed(f"measure-rates of {tier.name}: {done.stderr[-_TAIL:]}")
            self._results.replicas.append(parse_rates(done.stdout))
            self._save()
        return DONE

    @contextmanager
    def _start(self, target: Target, port: int, name: str) -> Iterator[Server]:
        target.write_config()
        log = self._logs / f"{target.name.replace(' ', '-')}.log"
        with owned(target.name, target.command, target.env, log) as running:
            yield Server(running, name, port, time.monotonic())

    def _wait(self, server: Server, tier: TierConfig) -> None:
        server.wait_answers(tier.model_id, self._settings.start_s)
        seconds = time.monotonic() - server.started_at
        self._results.starts_s[f"{server.name} {tier.name}"] = seconds
        self._save()
        self._say(f"{server.name} {tier.name}: answers after {seconds:.0f} s")

    def _measure_prompts(self, tier: TierConfig, server: Server) -> None:
        for tokens in self._settings.prompts:
            if tier.max_model_len is None or tokens < tier.max_model_len:
                measured = server.prefill(tier.name, tier.model_id, tokens)
                self._results.prefills.append(measured)
                self._save()
                self._say(
                    f"{server.name} {tier.name}: {tokens} tokens read in {measured.ms:.1f} ms"
                )

    def _measure_streams(self, tier: TierConfig, server: Server, generator: LoadGenerator) -> None:
        for batch in self._settings.batches:
            measured = server.stream(tier.name, self._build_phase(tier, batch), generator)
            self._results.streams.append(measured)
            self._save()
            self._say(
                f"{server.name} {tier.name}: {batch} streams: {measured.tokens_per_s:.0f} "
                f"tokens/s, first token after {measured.ttft_p50_ms:.0f} ms"
            )

    def _build_phase(self, tier: TierConfig, batch: int) -> Phase:
        return Phase(
            host=HOST,
            port=0,
            model=tier.model_id,
            clients=batch,
            stream=True,
            output_tokens=self._settings.output_tokens,
            warmup_s=self._settings.warmup_s,
            window_s=self._settings.window_s,
        )


def parse_rates(text: str) -> ReplicaRates:
    """The JSON of `serve-app measure-rates`."""
    found = orjson.loads(text)
    return ReplicaRates(
        tier=found["tier"],
        prompt_tokens=_PROMPT_TOKENS,
        output_tokens=_OUTPUT_TOKENS,
        prompt_tokens_per_s=found["prompt_tokens_per_s"],
        output_tokens_per_s=found["output_tokens_per_s"],
    )


def _run(
    command: Sequence[str], env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            timeout=_COMMAND_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BenchFailed(f"{' '.join(command)}: did not end within {_COMMAND_S:g} s") from None
