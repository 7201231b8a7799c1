"""`serve-app canary` and `reload` before they reach a cluster: shares, texts, differences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import typer
import yaml

from serve_app.cli.canary import (
    CanaryRefused,
    change_share,
    check_room,
    draw_table,
    parse_share,
    render_rows,
)
from serve_app.cli.reload import apply_config, find_changes, find_restarts, find_written
from serve_app.config.edit import NotEditable, set_router_key
from serve_app.config.reader import ServeConfig, read_serve_config
from serve_app.deploy.live import ChangeRefused, LiveService, ServiceNotFound
from serve_app.variants.trial import Signal, Tally, TrialReport
from serve_app.variants.trials import RouterReport, merge_reports

LOCAL = Path(__file__).parents[2] / "configs" / "local.yaml"
VARIANT = {"tier": "fast", "name": "next", "engine": {"max_model_len": 4096}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The local config with a variant of fast, and its comments."""
    text = LOCAL.read_text()
    path = tmp_path / "service.yaml"
    lines = "".join(f"        {line}\n" for line in yaml.safe_dump([VARIANT]).splitlines())
    path.write_text(text.replace("      router:\n", f"      variants:\n{lines}      router:\n", 1))
    assert read_serve_config(path).app.variants
    return path


def changed(path: Path, share: float) -> ServeConfig:
    """The config after `canary set`; the file has it too."""
    before = read_serve_config(path)
    path.write_text(change_share(path.read_text(), before, "fast", "next", share))
    return read_serve_config(path)


@pytest.mark.parametrize(("text", "share"), [("0.1", 0.1), ("10%", 0.1), ("0", 0), ("100%", 1)])
def test_a_share_is_written_in_either_way(text: str, share: float) -> None:
    """As a number or in percent."""
    assert parse_share(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["10", "-1", "ten", "", "nan", "101%"])
def test_what_is_no_share_is_said(text: str) -> None:
    """With an example."""
    with pytest.raises(typer.BadParameter, match=r"write 0\.1 or 10%"):
        parse_share(text)


def test_a_share_begins_a_trial_and_a_larger_one_goes_on_with_it(path: Path) -> None:
    """The comments of the file stay where they are."""
    comments = [line for line in path.read_text().splitlines() if "#" in line]
    first = changed(path, 0.1).runtime.variants["fast"]
    assert first.shares == {"next": 0.1}
    assert first.trial
    more = changed(path, 0.5).runtime.variants["fast"]
    assert (more.shares, more.trial) == ({"next": 0.5}, first.trial)
    assert [line for line in path.read_text().splitlines() if "#" in line] == comments


def test_a_variant_that_is_out_begins_a_new_trial(path: Path) -> None:
    """Otherwise its share would be without effect."""
    rollback = {"fast": {"shares": {"next": 0.1}, "trial": "first"}}
    path.write_text(set_router_key(path.read_text(), "variants", rollback))
    before, text = read_serve_config(path), path.read_text()
    for anew in (False, True):
        path.write_text(change_share(text, before, "fast", "next", 1.0, anew=anew))
        after = read_serve_config(path).runtime.variants["fast"]
        assert (after.trial != "first") is anew


def test_all_calls_leave_nothing_to_compare_with(path: Path) -> None:
    """A promotion takes out bounds that were set for the comparison, an abort the share."""
    rollback = {"fast": {"shares": {"next": 0.1}, "rollback": {"worse_ratio_max": 2.0}}}
    path.write_text(set_router_key(path.read_text(), "variants", rollback))
    config = changed(path, 1.0).runtime.variants["fast"]
    assert config.incumbent_share == 0
    assert "rollback" not in config.model_fields_set
    assert changed(path, 0.0).runtime.variants["fast"].shares == {}


def test_an_unknown_variant_is_said(path: Path) -> None:
    """With those that exist."""
    config = read_serve_config(path)
    with pytest.raises(CanaryRefused, match="there is next"):
        change_share(path.read_text(), config, "fast", "nxt", 0.1)
    with pytest.raises(CanaryRefused, match="there is none"):
        change_share(path.read_text(), config, "strong", "next", 0.1)


def test_a_file_that_cannot_be_edited_is_said() -> None:
    """Nothing is written."""
    flow = "applications: [{deployments: [{name: Router, user_config: {a: 1}}]}]"
    for text in (flow, "applications: []", ""):
        with pytest.raises(NotEditable, match="user_config"):
            set_router_key(text, "variants", {"a": 1})


@pytest.mark.parametrize(("variant", "fits"), [(0, False), (1, False), (2, True), (3, True)])
def test_a_promoted_variant_has_as_many_replicas(variant: int, fits: bool) -> None:
    """Replicas that still start do not count."""
    running = {"state": "RUNNING"}
    application = {
        "deployments": {
            "tier-fast": {"replicas": [running] * 2},
            "tier-fast--next": {"replicas": [running] * variant + [{"state": "STARTING"}]},
        }
    }
    if fits:
        check_room(application, "fast", "next")
    else:
        with pytest.raises(CanaryRefused, match=f"next runs {variant} replicas and fast 2"):
            check_room(application, "fast", "next")


def test_the_table_sums_all_routers() -> None:
    """Shares, replicas, calls, bad ends and the rollback."""
    bad = {"next": Tally(3, {Signal.FAULTS: 2})}
    one = TrialReport("fast/1", {"": 0.9, "next": 0.1}, {}, {"next": Signal.FAULTS}, bad)
    two = TrialReport(
        "fast/1", {"": 0.9, "next": 0.1}, {}, {}, {"next": Tally(1), "": Tally(9, {"slow": 1})}
    )
    reports = [RouterReport("a", {"fast": one}), RouterReport("b", {"fast": two})]
    application = {"deployments": {"tier-fast--next": {"replicas": [{"state": "RUNNING"}]}}}
    rows = render_rows(application, reports)
    assert [(row["variant"], row["calls"], row["replicas"]) for row in rows] == [
        ("(incumbent)", 9, 0),
        ("next", 4, 1),
    ]
    assert rows[1]["rolled_back"] == "faults"
    assert one.tallies["next"] == Tally(3, {"faults": 2})
    assert draw_table(rows).row_count == 2
    assert orjson.loads(orjson.dumps(rows))[1]["bad"] == {"faults": 2}
    assert merge_reports([]) == {}


class Cluster:
    """Serve's REST API over one deployed file."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.config = find_written(document)
        self.deployed_at = 1.0
        self.puts: list[dict[str, Any]] = []
        self.status = 200

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.method == "PUT":
            if self.status != 200:
                return httpx.Response(self.status, text="No such option")
            self.puts.append(orjson.loads(request.content))
            self.config = self.puts[-1]["applications"][0]
            self.deployed_at += 1
        application = {
            "name": "llm",
            "status": "RUNNING",
            "message": "",
            "last_deployed_time_s": self.deployed_at,
            "deployed_app_config": self.config,
            "deployments": {"Router": {"status": "HEALTHY", "replicas": []}},
        }
        return httpx.Response(
            200,
            json={
                "applications": {"llm": application},
                "proxy_location": "HeadOnly",
                "http_options": None,
            },
        )

    def live(self) -> LiveService:
        transport = httpx.MockTransport(self)
        return LiveService(httpx.Client(transport=transport, base_url="http://dashboard"))


def test_only_the_user_config_is_deployed(path: Path) -> None:
    """Everything else goes back as it was deployed, other options of deployments too."""
    cluster = Cluster(read_serve_config(path).document)
    before = cluster.config
    cluster.live().configure({"limits": {"calls_max": 7}}, wait_s=1)
    [put] = cluster.puts
    assert put["proxy_location"] == "HeadOnly"
    assert put["applications"][0]["args"] == before["args"]
    assert put["applications"][0]["deployments"][0]["user_config"] == {"limits": {"calls_max": 7}}


def test_a_dry_run_shows_and_changes_nothing(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line a key; a second one says that there is nothing to do."""
    cluster = Cluster(read_serve_config(path).document)
    config = changed(path, 0.1)
    apply_config(cluster.live(), config, wait_s=1, dry_run=True)
    assert "variants.fast.shares.next: (not set) -> 0.1" in capsys.readouterr().out
    assert cluster.puts == []
    apply_config(Cluster(config.document).live(), config, wait_s=1)
    assert "have this config already" in capsys.readouterr().out


def test_what_restarts_deployments_is_refused(path: Path) -> None:
    """The message names the keys and the command."""
    deployed = find_written(read_serve_config(path).document)
    assert list(find_restarts(deployed, deployed)) == []
    other = {**deployed, "args": {}, "deployments": [{"name": "tier-fast", "num_replicas": 2}]}
    assert list(find_restarts(deployed, other)) == ["args", "deployments.tier-fast"]
    cluster = Cluster({"applications": [{**other, "import_path": deployed["import_path"]}]})
    with pytest.raises(ChangeRefused, match=r"args, deployments\.tier-fast differs"):
        apply_config(cluster.live(), read_serve_config(path), wait_s=1)


def test_a_refusal_of_serve_is_shown(path: Path) -> None:
    """In Serve's words."""
    cluster = Cluster(read_serve_config(path).document)
    cluster.status = 400
    with pytest.raises(ChangeRefused, match="No such option"):
        cluster.live().configure({}, wait_s=1)


def test_no_service_is_said() -> None:
    """A cluster without the application, and no cluster at all."""
    cluster = Cluster({"applications": [{"import_path": "serve_app.app:build"}]})
    cluster.config = {"import_path": "other:app"}
    with pytest.raises(ServiceNotFound, match="no application"):
        cluster.live().find()
    with (
        httpx.Client(base_url="http://127.0.0.1:9") as http,
        pytest.raises(ServiceNotFound, match="does not answer"),
    ):
        LiveService(http).find()


def test_changes_are_shown_by_key() -> None:
    """New, removed and changed keys; long values are cut."""
    old = {"routing": {"strong_score_min": 0.5, "policy": "cascade"}, "limits": {}}
    new = {"routing": {"strong_score_min": 0.6}, "limits": {"calls_max": 1}, "x": "y" * 500}
    changes = list(find_changes(old, new))
    assert "routing.strong_score_min: 0.5 -> 0.6" in changes
    assert "routing.policy: cascade -> (not set)" in changes
    assert "limits.calls_max: (not set) -> 1" in changes
    assert all(len(change) < 300 for change in changes)
