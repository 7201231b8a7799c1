"""All checks of a model directory, in one report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from serve_app.model_files.files import Listing, find_pickles, list_files
from serve_app.model_files.finding import Finding
from serve_app.model_files.hashing import Progress, no_progress
from serve_app.model_files.integrity import check_sums
from serve_app.model_files.sums import SUMS_NAME, BadSums, read_sums
from serve_app.offline.checkpoints.settings import SETTINGS, Settings, check_settings
from serve_app.offline.checkpoints.template import check_template
from serve_app.offline.checkpoints.tensors import check_weights


@dataclass
class Report:
    """The checks that were made, as lines of text, and the findings."""

    directory: Path
    checked: dict[str, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether the model may be served."""
        return not any(finding.fatal for finding in self.findings)


def check_model(
    directory: Path,
    sums: Mapping[str, str] | None = None,
    *,
    allow_remote_code: bool = False,
    hashes: bool = True,
    progress: Progress = no_progress,
) -> Report:
    """Check a directory against `sums`, or without `sums` against its own SHA256SUMS if it has one.

    With `hashes` off, only checks that read no whole files are made.
    """
    report = Report(directory)
    listing = list_files(directory)
    report.findings += listing.findings
    report.findings += find_pickles(directory, listing.files)
    report.checked["files"] = f"{_describe(listing.files)}: pickles, links, special files"
    _check_weights(report, listing)
    _check_settings(report, listing, allow_remote_code)
    if hashes:
        _check_sums(report, listing, sums, progress)
    return report


def _describe(files: Mapping[str, int]) -> str:
    return f"{count(len(files), 'file')}, {sum(files.values()) / 1e6:,.1f} MB"


def count(number: int, noun: str) -> str:
    """`1 file`, `2 files`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _check_weights(report: Report, listing: Listing) -> None:
    shards, findings = check_weights(report.directory, listing.files)
    report.findings += findings
    parameters: Counter[str] = sum((shard.parameters for shard in shards.values()), Counter())
    kinds = ", ".join(f"{number:,} {dtype}" for dtype, number in parameters.most_common())
    tensors = count(sum(len(shard.names) for shard in shards.values()), "tensor")
    report.checked["weights"] = f"{count(len(shards), 'safetensors file')}, {tensors}: {kinds}"


def _check_settings(report: Report, listing: Listing, allow_remote_code: bool) -> None:
    settings = Settings(report.directory, listing.files)
    check_settings(settings, allow_remote_code=allow_remote_code)
    templates = check_template(settings)
    report.findings += settings.findings
    names = [name for name in SETTINGS if name in listing.files]
    templates_checked = count(templates, "chat template")
    report.checked["settings"] = ", ".join([*names, templates_checked])


def _check_sums(
    report: Report, listing: Listing, sums: Mapping[str, str] | None, progress: Progress
) -> None:
    if sums is None and SUMS_NAME not in listing.files:
        report.checked["sums"] = f"not checked: {SUMS_NAME} is missing; --write-sums writes it"
        return
    try:
        expected = read_sums(report.directory / SUMS_NAME) if sums is None else sums
    except BadSums as error:
        report.findings.append(
            Finding(SUMS_NAME, str(error), "remove the list and write it again with --write-sums")
        )
        return
    report.findings += check_sums(report.directory, expected, listing, progress)
    report.checked["sums"] = f"{count(len(expected), 'file')} by SHA-256"
