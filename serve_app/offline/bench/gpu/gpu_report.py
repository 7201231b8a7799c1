"""The findings of a check as tables: the service and bare vLLM, estimates and measurements."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from serve_app.offline.bench.gpu.asking import Stream
from serve_app.offline.bench.gpu.estimates import Estimate
from serve_app.offline.bench.gpu.results import Results
from serve_app.offline.bench.grids import Grid, render_elsewhere
from serve_app.offline.bench.summary import ratio
from serve_app.offline.planning.cards import GIB
from serve_app.offline.planning.roofline import COMPUTE_REACHED

_STREAMS = (
    "tier",
    "streams",
    "first token p50 ms: bare",
    "service",
    "p99 ms: bare",
    "service",
    "tokens/s: bare",
    "service",
    "ratio",
    "CPU elsewhere",
)
_WORDS = ("what", "estimated", "measured", "measured / estimated")
_LEVELS = ("error", "warning")


@dataclass(frozen=True, slots=True)
class Pair:
    """A figure, estimated and measured; None if one of the two is missing."""

    tier: str
    what: str
    estimated: float | None
    measured: float | None
    digits: int = 2

    @property
    def cells(self) -> tuple[str, ...]:
        """A row of the table."""
        both = self.estimated is not None and self.measured is not None
        return (
            f"{self.tier}: {self.what}" if self.tier else self.what,
            _render(self.estimated, self.digits),
            _render(self.measured, self.digits),
            f"{ratio(self.measured or 0.0, self.estimated or 0.0):.2f}" if both else "-",
        )


def build_grids(results: Results, estimates: Mapping[str, Estimate]) -> list[Grid]:
    """Every table that has rows."""
    words = [*_pair_all(results, estimates), *_pair_card(results, estimates)]
    constants = list(_pair_constants(results, estimates))
    grids = [
        Grid("The service beside bare vLLM", _STREAMS, list(_list_streams(results.streams))),
        Grid("What `plan` says, and what was measured", _WORDS, [p.cells for p in words]),
        Grid("Constants of the roofline", _WORDS, [p.cells for p in constants]),
        Grid("What `doctor` says", ("finding",), list(_list_doctor(results))),
        Grid("Steps", ("step", "outcome", "seconds"), list(_list_steps(results))),
    ]
    return [grid for grid in grids if grid.rows]


def _list_streams(streams: Sequence[Stream]) -> Iterator[tuple[str, ...]]:
    found = {(run.tier, run.batch, run.server): run for run in streams}
    for tier, batch in dict.fromkeys((run.tier, run.batch) for run in streams):
        runs = [found.get((tier, batch, server)) for server in ("bare", "service")]
        first, last, rate = (
            [None if run is None else key(run) for run in runs]
            for key in (_first_p50, _first_p99, _tokens_per_s)
        )
        bare, ours = rate
        share = "-" if bare is None or ours is None else f"{ratio(ours, bare):.2f}"
        cells = [*(_render(v, 1) for v in (*first, *last)), *(_render(v, 0) for v in rate)]
        noise = render_elsewhere(max(run.elsewhere_ratio for run in runs if run is not None))
        yield tier, str(batch), *cells, share, noise


def _first_p50(run: Stream) -> float:
    return run.ttft_p50_ms


def _first_p99(run: Stream) -> float:
    return run.ttft_p99_ms


def _tokens_per_s(run: Stream) -> float:
    return run.tokens_per_s


def _pair_all(results: Results, estimates: Mapping[str, Estimate]) -> Iterator[Pair]:
    for tier, estimate in estimates.items():
        yield from _pair_engine(tier, results, estimate)
        for run in results.streams:
            if (run.tier, run.server) == (tier, "bare"):
                expected = estimate.step_ms(run.batch, run.prompt_tokens, run.output_tokens)
                noun = "stream" if run.batch == 1 else "streams"
                what = f"decode step, {run.batch} {noun}, ms"
                yield Pair(tier, what, expected, run.step_p50_ms)
        for prompt in results.prefills:
            if prompt.tier == tier:
                expected = estimate.prefill_ms(prompt.prompt_tokens)
                what = f"prompt of {prompt.prompt_tokens:,} tokens to first token, ms"
                yield Pair(tier, what, expected, prompt.ms, digits=1)
        yield from _pair_rates(tier, results, estimate)


def _pair_rates(tier: str, results: Results, estimate: Estimate) -> Iterator[Pair]:
    """Against `serve-app measure-rates`."""
    seqs = estimate.engine.max_num_seqs
    for found in results.replicas:
        if found.tier == tier:
            read_ms = estimate.prefill_ms(found.prompt_tokens)
            step_ms = estimate.step_ms(seqs, found.prompt_tokens, found.output_tokens)
            read = read_ms and 1000 * found.prompt_tokens / read_ms
            written = step_ms and 1000 * seqs / step_ms
            yield Pair(tier, "prompt tokens/s of a replica", read, found.prompt_tokens_per_s, 0)
            yield Pair(tier, "answer tokens/s of a replica", written, found.output_tokens_per_s, 0)


def _pair_engine(tier: str, results: Results, estimate: Estimate) -> Iterator[Pair]:
    """Against vLLM's own log."""
    memory, said = estimate.memory, results.engines.get(tier)
    if said is None:
        return
    weights_gib = memory.weights_bytes / GIB
    digits = 2 if weights_gib > 0.1 else 4
    yield Pair(tier, "weights, GiB", weights_gib, said.weights_gib, digits)
    yield Pair(tier, "tokens in the KV cache", memory.kv_tokens, said.kv_tokens, digits=0)
    what = f"calls of {memory.max_model_len:,} tokens at a time"
    yield Pair(tier, what, memory.concurrency, said.concurrency)


def _pair_card(results: Results, estimates: Mapping[str, Estimate]) -> Iterator[Pair]:
    cards = [found.card for found in estimates.values() if found.card is not None]
    if results.gpu is None or not cards:
        return
    if results.rates is not None:
        what = "memory of the card that a program can have, GiB"
        yield Pair("", what, cards[0].memory_gib, results.rates.memory_gib)
    used = sum(found.resident_gib for found in estimates.values())
    yield Pair("", "memory of the card that all engines take, GiB", used, results.card_used_gib)


def _pair_constants(results: Results, estimates: Mapping[str, Estimate]) -> Iterator[Pair]:
    """What of the data sheet's rates is reached; on a CPU there is no data sheet."""
    rates = results.rates
    if rates is None:
        return
    first = next((found for found in estimates.values() if found.card), None)
    sheet = None if results.gpu is None or first is None else first.card
    peaks = (
        (None, None, None)
        if sheet is None
        else (sheet.bandwidth_gb_s, sheet.bf16_tflops, sheet.fp8_tflops)
    )
    yield Pair("", "memory, copied, GB/s", peaks[0], rates.copy_gb_s, 1)
    yield Pair("", "memory, read by a product, GB/s", peaks[0], rates.read_gb_s, 1)
    yield Pair("", "bf16, TFLOPS", peaks[1], rates.bf16_tflops)
    if rates.fp8_tflops is not None:
        yield Pair("", "fp8, TFLOPS", peaks[2], rates.fp8_tflops)
    yield Pair("", "one small operation, µs", None, rates.launch_us)
    if sheet is not None and first is not None:
        peak_gb_s = sheet.bandwidth_gb_s
        planned = first.bytes_per_s and first.bytes_per_s / 1e9 / peak_gb_s
        reached = rates.read_gb_s / peak_gb_s
        yield Pair("", "part of the memory's rate reached", planned, reached)
        reached = rates.bf16_tflops / sheet.bf16_tflops
        yield Pair("", "part of the bf16 rate reached", COMPUTE_REACHED, reached)
    for run in results.streams:
        found = estimates.get(run.tier)
        if (run.server, run.batch) == ("bare", 1) and found is not None:
            read_ms = 1e3 * found.read_bytes / (rates.read_gb_s * 1e9)
            layer_us = 1e3 * (run.step_p50_ms - read_ms) / found.facts.layers
            yield Pair(run.tier, "a layer beside reading, µs", found.layer_us, layer_us, 1)


def _list_doctor(results: Results) -> Iterator[tuple[str, ...]]:
    for said in results.doctor:
        if said.level in _LEVELS:
            yield (f"{said.level}: {said.check}: {said.what}",)


def _list_steps(results: Results) -> Iterator[tuple[str, ...]]:
    for step in results.steps:
        yield step.name, step.outcome, f"{step.seconds:.0f}"
    for name, seconds in results.starts_s.items():
        yield f"{name}: from the command to the first answer", "", f"{seconds:.0f}"


def _render(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"
