"""Tables, the log and the JSON file."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from serve_app.offline.bench.clocks import Part
from serve_app.offline.bench.grids import Grid, build_report
from serve_app.offline.bench.journal import (
    append_section,
    print_report,
    render_grid,
    render_section,
    write_json,
)
from serve_app.offline.bench.machine import Machine, describe_machine, split_cores
from serve_app.offline.bench.stages import STAGES
from serve_app.offline.bench.summary import Measurement, StageTimes

MACHINE = Machine(
    at="2026-01-02 03:04 UTC",
    cpu="Some CPU",
    cores=2,
    memory_gib=23.6,
    kernel="6.1",
    python="3.11.7",
    packages={"ray": "2.60.0"},
    commit="abc",
)
PEER = Measurement(
    target="peer",
    phase="2 clients, streamed, 16 tokens",
    requests=100,
    requests_per_s=200.0,
    tokens_per_s=3200.0,
    ttft_p50_ms=7.04,
    ttft_p99_ms=9.0,
    total_p50_ms=40.0,
    total_p99_ms=50.0,
    cpu_ms={Part.SERVER: 2.0, Part.ENGINE_WORKER: 8.0, Part.LOAD_GENERATOR: 0.1},
    elsewhere_ratio=0.01,
)
OURS = replace(
    PEER,
    target="ours",
    requests_per_s=150.0,
    cpu_ms={Part.ROUTER: 3.0, Part.SERVER: 4.0, Part.ENGINE_WORKER: 8.0},
    elsewhere_ratio=0.25,
)
AGAIN = replace(PEER, target="peer again", requests_per_s=100.0)
WHOLE = replace(OURS, phase="2 clients, whole, 16 tokens", ttft_p50_ms=None, ttft_p99_ms=None)


def test_report_of_one_phase() -> None:
    """An overview, then the phase's rates and CPU; ratios are to the mean of the peer's runs."""
    overview, rates, cpu = build_report([PEER, OURS, AGAIN])
    assert overview.header == ("server", PEER.phase)
    assert overview.rows[1] == ("ours", "150.0 x 1.00")
    assert rates.rows[0] == (
        *("peer", "200.0", "1.33", "3,200", "7.0", "9.0", "40.0", "50.0", "1%"),
    )
    assert cpu.header == (
        *("server", "serving", "x peer", "load generator", "Router", "server / replica"),
        "engine Worker",
    )
    assert cpu.rows[1] == ("ours", "15.00", "1.50", "-", "3.00", "4.00", "8.00")


def test_rounds_are_compared_within_each_round() -> None:
    """A machine that is half as fast in its second round does not change the ratio."""
    again = [replace(run, round=2, requests_per_s=run.requests_per_s / 2) for run in (PEER, OURS)]
    overview, rates, cpu, *rest = build_report([PEER, OURS, *again])
    assert overview.rows[1] == ("ours", "112.5 (75.0-150.0) x 0.75 (0.75-0.75)")
    assert rates.rows[1][1:3] == ("112.5 (75.0-150.0)", "0.75 (0.75-0.75)")
    assert cpu.rows[1][1] == "15.00 (15.00-15.00)"
    assert rest == []


def test_stages_have_a_table_for_each_target_that_noted_them() -> None:
    """Calls of all rounds are counted together, in shares."""
    times = StageTimes(
        p50_ms=1.0, p99_ms=9.0, mean_ms=2.0, slowest_ms=8.0, counts=[1, 2, 1, 0, 0, 0, 0]
    )
    noted = replace(OURS, stages=dict.fromkeys(STAGES, times))
    *_, grid = build_report([PEER, noted, replace(noted, round=2)])
    assert grid.title == f"{PEER.phase}: stages of a call, ours; calls in % by milliseconds"
    assert [row[0] for row in grid.rows] == list(STAGES)
    assert grid.rows[0][4:8] == ("8.00 (8.00-8.00)", "25.0", "50.0", "25.0")


def test_a_row_of_a_noisy_machine_is_marked() -> None:
    """When something else had the cores, the row says so."""
    _, rates, _ = build_report([PEER, OURS])
    assert [row[-1] for row in rates.rows] == ["1%", "25% (!)"]


def test_without_a_peer_there_are_no_ratios() -> None:
    """A run of some servers only is still a report."""
    overview, rates, _ = build_report([OURS])
    assert overview.rows == [("ours", "150.0 x nan")]
    assert rates.rows[0][2] == "nan"


def test_what_was_not_measured_is_a_dash() -> None:
    """Whole answers have no time to first token, and a server may miss a phase."""
    overview, _, _, rates, _ = build_report([PEER, WHOLE])
    assert overview.rows == [("peer", "200.0 x 1.00", "-"), ("ours", "-", "150.0 x nan")]
    assert rates.rows[0][4:6] == ("-", "-")


def test_render_grid() -> None:
    """A table in Markdown has its numbers to the right."""
    grid = Grid("Title", ("server", "rate"), [("peer", "1.0"), ("ours", "0.9")])
    assert render_grid(grid) == (
        "**Title**\n\n| server | rate |\n| --- | ---: |\n| peer | 1.0 |\n| ours | 0.9 |\n"
    )


def test_a_section_goes_to_the_end_of_the_log(tmp_path: Path) -> None:
    """Sections follow each other; each has date, command and machine at its head."""
    log = tmp_path / "log.md"
    log.write_text("# Log\n")
    for command in ("serve-app one", "serve-app two"):
        append_section(log, render_section(MACHINE, command, build_report([PEER])))
    text = log.read_text()
    assert text.startswith("# Log\n\n## 2026-01-02 03:04 UTC: `serve-app one`\n\n- 2 cores of")
    assert text.index("serve-app one") < text.index("serve-app two")
    assert "- commit abc, Python 3.11.7, ray 2.60.0\n" in text


def test_a_new_log_begins_with_its_section(tmp_path: Path) -> None:
    """The file that the caller named is made."""
    append_section(tmp_path / "log.md", "section\n")
    assert (tmp_path / "log.md").read_text() == "section\n"


def test_json_has_every_number(tmp_path: Path) -> None:
    """The JSON file has the machine and every measurement, CPU by the names of the parts."""
    write_json(tmp_path / "out.json", MACHINE, [PEER, OURS])
    document = json.loads((tmp_path / "out.json").read_bytes())
    assert document["machine"]["cores"] == 2
    assert document["measurements"][1]["cpu_ms"]["Router"] == 3.0
    assert document["measurements"][0]["requests_per_s"] == 200.0


def test_print_report() -> None:
    """The terminal shows every table whole."""
    out = io.StringIO()
    print_report(Console(file=out, width=160), MACHINE, build_report([PEER, OURS]))
    assert "2 cores of Some CPU, 24 GiB" in out.getvalue()
    assert "150.0 x 0.75" in out.getvalue()


def test_describe_machine() -> None:
    """What the report says of this machine is known on this machine."""
    machine = describe_machine()
    assert machine.cores >= 1
    assert machine.memory_gib > 0
    assert machine.cpu
    assert "ray" in machine.packages


def test_cores_are_split_where_there_are_enough() -> None:
    """Servers keep at least two; the report says which cores it were, or why not."""
    cores = split_cores(1, [0, 1, 2, 5])
    assert (cores.generator, cores.servers) == ([0], [1, 2, 5])
    assert cores.note == "the load generator on cores 0, the servers on cores 1,2,5"
    shared = split_cores(1, [0, 1])
    assert (shared.generator, shared.servers) == ((), ())
    assert "share 2 cores: too few for 1" in shared.note
    assert split_cores(0, [0, 1]).note == "the load generator and the servers share 2 cores"
