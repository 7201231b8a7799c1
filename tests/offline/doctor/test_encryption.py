"""Which places are encrypted, on machines that are made of files."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel
from ray.serve._private import constants

from serve_app.config.reader import read_serve_config
from serve_app.config.tls import CERTIFICATE, KEY
from serve_app.offline.doctor.encryption import (
    Directory,
    Kernel,
    State,
    check_encryption,
    find_paths,
    find_place,
    list_directories,
)
from serve_app.offline.doctor.finding import Level

CONFIGS = Path(__file__).parents[3] / "configs"

MOUNTS = r"""
21 1 259:2 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p2 rw
22 21 0:21 / /dev/shm rw - tmpfs tmpfs rw
23 21 253:1 / /models rw - xfs /dev/mapper/vg-models rw
24 21 253:3 / /half rw - ext4 /dev/mapper/vg-half rw
25 21 0:40 / /nfs rw - nfs4 server:/export rw
26 21 0:41 / /tank/logs rw - zfs tank/logs rw
27 21 0:42 / /container rw - overlay overlay rw,lowerdir=/l,upperdir=/u
28 21 0:43 / /pool rw - btrfs /dev/mapper/pool rw
29 21 253:4 / /with\040space rw - ext4 /dev/mapper/plain rw
30 21 0:44 / /secret rw - ecryptfs /home/.secret rw
31 21 253:9 / /gone rw - ext4 /dev/mapper/gone rw
32 21 259:2 / /over rw - ext4 /dev/nvme0n1p2 rw
33 21 253:0 / /over rw - ext4 /dev/mapper/crypt rw
no mount
"""


class Machine:
    """A kernel's /proc and /sys with a few devices."""

    def __init__(self, directory: Path) -> None:
        self.kernel = Kernel(directory / "proc", directory / "sys")
        (directory / "proc/self").mkdir(parents=True)
        (directory / "proc/self/mountinfo").write_text(MOUNTS)
        self.swap()
        self.device("nvme0n1", "259:0")
        self.device("nvme0n1p2", "259:2")
        self.device("nvme1n1", "259:5")
        self.device("dm-0", "253:0", "CRYPT-LUKS2-0123-crypt", below=["nvme0n1"])
        self.device("dm-1", "253:1", "LVM-abc", below=["dm-0"])
        self.device("dm-3", "253:3", "LVM-def", below=["dm-0", "nvme1n1"])
        self.device("dm-4", "253:4", "mpath-1", below=["nvme1n1"])
        self.device("zram0", "252:0")
        self.device("zd0", "230:0")

    def device(
        self, name: str, number: str, uuid: str = "", below: list[str] | None = None
    ) -> None:
        block = self.kernel.sys / "devices" / name
        (block / "slaves").mkdir(parents=True)
        for lower in below or ():
            (block / "slaves" / lower).mkdir()
        if uuid:
            (block / "dm").mkdir()
            (block / "dm/uuid").write_text(uuid + "\n")
            (block / "dm/name").write_text(uuid.rpartition("-")[2] + "\n")
        for link in (f"dev/block/{number}", f"class/block/{name}"):
            (self.kernel.sys / link).parent.mkdir(parents=True, exist_ok=True)
            (self.kernel.sys / link).symlink_to(block)

    def btrfs(self, *names: str) -> None:
        for name in names:
            (self.kernel.sys / "fs/btrfs/uuid/devices" / name).mkdir(parents=True)

    def swap(self, *lines: str) -> None:
        head = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority"
        (self.kernel.proc / "swaps").write_text("\n".join([head, *lines]) + "\n")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine with one encrypted disk and one that is not."""
    return Machine(tmp_path)


@pytest.mark.parametrize(
    ("path", "state", "what"),
    [
        ("/etc", State.PLAIN, "nvme0n1p2 has no dm-crypt"),
        ("/models/qwen/not/yet", State.ENCRYPTED, "LUKS2 by dm-crypt (crypt)"),
        ("/models-2", State.PLAIN, "nvme0n1p2"),
        ("/half/a", State.PLAIN, "nvme1n1 has no dm-crypt"),
        ("/dev/shm/x", State.MEMORY, "only swap takes it to a disk"),
        ("/nfs/models", State.UNKNOWN, "ask the machine that holds it"),
        ("/tank/logs", State.UNKNOWN, "zfs get encryption,keystatus tank/logs"),
        ("/container/tmp", State.UNKNOWN, "ask the host"),
        ("/with space/a", State.PLAIN, "nvme1n1"),
        ("/secret/a", State.ENCRYPTED, "eCryptfs"),
        ("/gone", State.UNKNOWN, "253:9 is not in"),
        ("/over", State.ENCRYPTED, "LUKS2"),
    ],
)
def test_a_place_is_as_its_devices(machine: Machine, path: str, state: State, what: str) -> None:
    """All devices below a mount count; what cannot be seen is unknown, never encrypted."""
    place = find_place(Path(path), machine.kernel)
    assert place.state is state
    assert what in place.what


@pytest.mark.parametrize(
    ("members", "state"), [(["dm-0", "dm-1"], State.ENCRYPTED), (["dm-0", "nvme1n1"], State.PLAIN)]
)
def test_every_device_of_a_btrfs_counts(machine: Machine, members: list[str], state: State) -> None:
    """A mount names one device of several."""
    machine.btrfs("pool", *members)
    machine.device("pool", "253:7", "CRYPT-LUKS1-9-pool")
    assert find_place(Path("/pool/a"), machine.kernel).state is state


@pytest.mark.parametrize(
    ("lines", "levels", "what"),
    [
        ([], [Level.OK], "there is no swap"),
        (["/dev/zram0 partition 1 0 100"], [Level.OK], "in memory"),
        (["/dev/dm-0 partition 1 0 -2"], [Level.OK], "encrypted; LUKS2"),
        (["/dev/nvme1n1 partition 1 0 -2"], [Level.WARNING], "not encrypted"),
        (["/swapfile file 1 0 -2"], [Level.WARNING], "not encrypted"),
        (["/models/swap file 1 0 -2"], [Level.OK], "encrypted"),
        (["/dev/zd0 partition 1 0 -2"], [Level.WARNING], "unknown; zd0 is a volume of ZFS"),
        (["/dev/dm-0 partition 1 0 -2", "/s file 1 0 -2"], [Level.OK, Level.WARNING], ""),
    ],
)
def test_swap_is_looked_at(
    machine: Machine, lines: list[str], levels: list[Level], what: str
) -> None:
    """Memory that is swapped to a plain disk is a warning, whatever the directories are."""
    machine.swap(*lines)
    found = list(check_encryption(iter(()), machine.kernel))
    assert [result.level for result in found] == levels
    assert what in found[0].what


@pytest.mark.parametrize(
    ("path", "private", "level"),
    [
        ("/models/a", True, Level.OK),
        ("/etc/a", False, Level.NOTE),
        ("/etc/a", True, Level.WARNING),
        ("/nfs/a", True, Level.NOTE),
    ],
)
def test_where_prompts_lie_in_the_open_is_a_warning(
    machine: Machine, path: str, private: bool, level: Level
) -> None:
    """A model is no secret of its callers; an unknown state is told, and judged by nobody."""
    directory = Directory("d", Path(path), private)
    [found, _] = check_encryption(iter([directory]), machine.kernel)
    assert found.level is level
    assert bool(found.mend) is (level is Level.WARNING)


def test_a_kernel_that_shows_nothing(tmp_path: Path) -> None:
    """Without /proc there is a note and no traceback."""
    [found] = check_encryption(iter([Directory("d", Path("/a"), True)]), Kernel(tmp_path))
    assert found.level is Level.NOTE


class Inner(BaseModel):
    """A part of a config."""

    file: str | None = None
    variable: str = "/not/a/place"


class Outer(BaseModel):
    """A config."""

    directory: Path | None = None
    keys: Inner = Inner(file="/keys/store")
    issuers: tuple[Inner, ...] = (Inner(file="relative"), Inner(file="/secrets/hs"))


def test_every_place_of_a_config_is_found() -> None:
    """By the key's name, in lists too; a relative path or another key is none."""
    found = dict(find_paths(Outer(directory=Path("/audit")), ""))
    assert found == {
        "directory": Path("/audit"),
        "keys.file": Path("/keys/store"),
        "issuers.1.file": Path("/secrets/hs"),
    }


def test_the_places_of_a_shipped_config() -> None:
    """Ray's and vLLM's own places are named, where the environment puts them."""
    config = read_serve_config(CONFIGS / "prod.yaml")
    environment = {"RAY_TMPDIR": "/fast", "HF_HOME": "/hub", "VLLM_CACHE_ROOT": "/cache"}
    found = {entry.path for entry in list_directories(config, environment, Path("/home/ray"))}
    secrets = {Path("/etc/serve-app/secrets") / name for name in ("pepper", "redis-password")}
    assert found == {Path("/fast/ray"), Path("/hub"), Path("/cache"), Path("/dev/shm"), *secrets}


def test_the_keys_of_tls_are_places_too() -> None:
    """The operator's files, and HAProxy's copies where Ray puts its configuration."""
    config = read_serve_config(CONFIGS / "local.yaml")
    environment = {CERTIFICATE: "/tls/tls.crt", KEY: "/tls/tls.key"}
    found = {entry.path: entry for entry in list_directories(config, environment, Path("/home"))}
    copies = Path(constants.RAY_SERVE_HAPROXY_CONFIG_FILE_LOC).parent
    assert found.keys() >= {Path("/tls/tls.crt"), Path("/tls/tls.key"), copies}
    assert found[copies].private


def test_this_machine_answers() -> None:
    """The kernel of the tests has mounts and knows its swap."""
    results = list(check_encryption(iter([Directory("here", Path(__file__), False)])))
    assert len(results) >= 2
    assert all(result.what for result in results)
