"""The measured worth of signals and labels, as tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from serve_app.offline.bench.grids import Grid
from serve_app.offline.evaluate.stats import Interval
from serve_app.offline.probing.checkpoints import Checkpoint
from serve_app.offline.probing.labels import Agreement, Bias
from serve_app.offline.probing.looks import Found
from serve_app.offline.probing.rows import Cost

_LOOKS = (
    "signal",
    "APGR (95 %)",
    "AUC (95 %)",
    "APGR more than the prompt's score",
    "APGR more than the cascade of 16",
)
_COSTS = ("call", "calls", "ms (median)", "engine ms", "CPU ms", "tokens read", "tokens written")
_CHECKPOINTS = (
    "checkpoint, tokens",
    "confidence_min",
    "to strong, %",
    "released drafts that are right, %",
    "right in all, %",
    "of strong's, %",
    "tokens of a discarded draft",
)
_AGREEMENTS = (
    "label",
    "labelled",
    "agrees about fast, %",
    "about strong, %",
    "fast wrong, called right",
    "fast right, called wrong",
)
_BIASES = (
    "prompt",
    "pairs",
    "same verdict in both orders, %",
    "calls right, %",
    "calls one alone right",
    "... the first, %",
    "... the longer, %",
    "the longer is right, %",
    "verdicts that the checks confirm, %",
)


def tabulate_looks(title: str, found: Sequence[Found]) -> Grid:
    """A row for each signal."""
    rows = [
        (
            each.name,
            f"{each.apgr:.3f} ({_range(each.apgr_interval)})",
            f"{each.auc:.3f} ({_range(each.auc_interval)})",
            _signed(each.gained),
            _signed(each.behind),
        )
        for each in found
    ]
    return Grid(title, _LOOKS, rows)


def tabulate_checkpoints(title: str, checkpoints: Sequence[Checkpoint]) -> Grid:
    """A row for each checkpoint."""
    return Grid(title, _CHECKPOINTS, [tuple(_checkpoint(each)) for each in checkpoints])


def _checkpoint(each: Checkpoint) -> Iterator[str]:
    report = each.report
    yield str(each.tokens)
    yield f"{report.confidence_min:g}"
    yield f"{100 * report.escalated_ratio:.1f}"
    yield "-" if report.released_right is None else f"{100 * report.released_right:.1f}"
    yield f"{100 * report.right:.1f}"
    yield f"{100 * report.of_strong:.1f}"
    yield f"{each.discarded:.1f}"


def tabulate_costs(costs: Sequence[Cost]) -> Grid:
    """A row for each kind of call."""
    rows = [
        (
            each.kind,
            str(each.calls),
            f"{each.ms:.1f}",
            f"{each.engine_ms:.1f}",
            f"{each.cpu_ms:.1f}",
            f"{each.prompt_tokens:.1f}",
            f"{each.output_tokens:.1f}",
        )
        for each in costs
    ]
    return Grid("What one call costs, one at a time, nothing cached", _COSTS, rows)


def tabulate_agreements(title: str, agreements: Sequence[Agreement]) -> Grid:
    """A row for each way to label."""
    rows = [
        (
            each.name,
            f"{each.labelled} of {each.rows}",
            f"{100 * each.fast:.1f} ({_percent(each.fast_interval)})",
            f"{100 * each.strong:.1f}",
            str(each.wrongly_right),
            str(each.wrongly_wrong),
        )
        for each in agreements
    ]
    return Grid(title, _AGREEMENTS, rows)


def tabulate_biases(biases: Sequence[Bias]) -> Grid:
    """A row for each language of the judge's prompt."""
    return Grid(
        "The judge, on pairs of different answers", _BIASES, [tuple(_bias(b)) for b in biases]
    )


def _bias(bias: Bias) -> Iterator[str]:
    yield bias.language
    yield str(bias.pairs)
    yield f"{100 * bias.steady:.1f}"
    yield f"{100 * bias.says_right:.1f}"
    yield str(bias.one_sided)
    for share in (bias.first, bias.longer, bias.longer_is_right, bias.right):
        yield f"{100 * share:.1f}"


def _range(interval: Interval) -> str:
    return f"{interval.low:.3f} to {interval.high:.3f}"


def _percent(interval: Interval) -> str:
    return f"{100 * interval.low:.1f} to {100 * interval.high:.1f}"


def _signed(interval: Interval | None) -> str:
    return "-" if interval is None else f"{interval.low:+.3f} to {interval.high:+.3f}"
