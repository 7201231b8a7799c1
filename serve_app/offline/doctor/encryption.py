"""Which directories lie on encrypted devices, as the kernel shows it in /proc and /sys.

Only dm-crypt below a directory counts as encrypted, because only that can be seen here. What a
cloud, a storage system or a drive encrypts by itself looks to the kernel like any disk.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from pydantic import BaseModel

from serve_app.config.reader import ServeConfig
from serve_app.config.tiers import DEMO_PREFIX
from serve_app.config.tls import CERTIFICATE, HEADER_SECRET, KEY
from serve_app.offline.doctor.finding import CheckResult, Level, note, ok

PATH_KEYS = frozenset({"directory", "file", "path"})
"""The names of the run-time config's keys whose values are places on this machine."""

MEMORY = frozenset({"tmpfs", "ramfs", "devtmpfs"})
ELSEWHERE = {
    "zfs": "ZFS encrypts by dataset: `zfs get encryption,keystatus {source}`",
    "overlay": "it is the layer of a container: ask the host about its container storage",
}
DEPTH_MAX = 16
"""Of devices that lie on devices."""
DEFAULT_CACHE = ".cache"
HAPROXY_CONFIGURATION = "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC"
HAPROXY_CONFIGURATION_DEFAULT = "/tmp/haproxy-serve/haproxy.cfg"
"""The variable and the default of Ray; a test compares the default with Ray's."""


class State(Enum):
    """What is known of a place."""

    ENCRYPTED = "encrypted"
    PLAIN = "not encrypted by this machine"
    MEMORY = "in memory"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Place:
    """The state of a directory or of a swap area, and what it was concluded from."""

    state: State
    what: str


@dataclass(frozen=True)
class Mount:
    """One line of /proc/self/mountinfo."""

    device: str
    point: Path
    kind: str
    source: str


@dataclass(frozen=True)
class Kernel:
    """Where the kernel shows its state; a test makes its own."""

    proc: Path = Path("/proc")
    sys: Path = Path("/sys")

    def mounts(self) -> list[Mount]:
        """The mounts that this process sees, in their order."""
        text = (self.proc / "self/mountinfo").read_text("utf-8", "replace")
        return [mount for line in text.splitlines() if (mount := parse_mount(line))]

    def swaps(self) -> list[str]:
        """The devices and files to which memory is swapped."""
        lines = (self.proc / "swaps").read_text().splitlines()[1:]
        return [_unescape(line.split()[0]) for line in lines if line.strip()]

    def block(self, name: str) -> Path | None:
        """The directory of a block device, by `8:1` or by `sda1`."""
        for parent in ("dev/block", "class/block"):
            if (found := self.sys / parent / name).exists():
                return found.resolve()
        return None

    def btrfs_members(self, name: str) -> list[str]:
        """The names of all devices of the btrfs that a device belongs to."""
        for devices in self.sys.glob("fs/btrfs/*/devices"):
            names = [path.name for path in devices.iterdir()]
            if name in names:
                return names
        return [name]


def parse_mount(line: str) -> Mount | None:
    """A line of mountinfo, None if it has another form."""
    fields, dash, rest = line.partition(" - ")
    first, last = fields.split(), rest.split()
    if not dash or len(first) < 5 or len(last) < 2:
        return None
    return Mount(first[2], Path(_unescape(first[4])), last[0], _unescape(last[1]))


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def find_place(path: Path, kernel: Kernel) -> Place:
    """Whether a path lies on an encrypted device; the path need not exist yet."""
    mount = find_mount(path, kernel.mounts())
    if mount is None:
        return Place(State.UNKNOWN, "no mount holds it")
    if mount.kind in MEMORY:
        return Place(State.MEMORY, f"{mount.kind} at {mount.point}; only swap takes it to a disk")
    if mount.kind in ELSEWHERE:
        return Place(State.UNKNOWN, ELSEWHERE[mount.kind].format(source=mount.source))
    if mount.kind == "ecryptfs":
        return Place(State.ENCRYPTED, f"eCryptfs at {mount.point}")
    return _join(_list_devices(mount, kernel), kernel, f"{mount.kind} of {mount.source}")


def find_mount(path: Path, mounts: list[Mount]) -> Mount | None:
    """The mount that holds a path: the deepest, and of several at one point the last."""
    found = None
    for mount in mounts:
        deeper = found is None or len(mount.point.parts) >= len(found.point.parts)
        if deeper and path.is_relative_to(mount.point):
            found = mount
    return found


def _list_devices(mount: Mount, kernel: Kernel) -> list[str]:
    """The names of the block devices below a mount, none if there is none that can be seen."""
    if mount.kind == "btrfs":
        return kernel.btrfs_members(Path(os.path.realpath(mount.source)).name)
    if mount.device.startswith("0:"):
        return []
    return [mount.device]


def _join(devices: list[str], kernel: Kernel, what: str) -> Place:
    """Encrypted if every device is; plain if one is."""
    if not devices:
        return Place(State.UNKNOWN, f"{what} is no local device: ask the machine that holds it")
    places = [_look_below(device, kernel, 0) for device in devices]
    for state in (State.PLAIN, State.UNKNOWN, State.MEMORY):
        for place in places:
            if place.state is state:
                return Place(state, f"{what}: {place.what}")
    return Place(State.ENCRYPTED, f"{what}: {places[0].what}")


def _look_below(device: str, kernel: Kernel, depth: int) -> Place:
    block = kernel.block(device)
    if block is None or depth > DEPTH_MAX:
        return Place(State.UNKNOWN, f"{device} is not in {kernel.sys}")
    name = block.name
    if name.startswith("zram"):
        return Place(State.MEMORY, f"{name} is compressed memory")
    if name.startswith("zd"):
        return Place(State.UNKNOWN, f"{name} is a volume of ZFS")
    uuid = _read(block / "dm/uuid")
    if uuid.startswith("CRYPT-"):
        kind = uuid.split("-")[1]
        return Place(State.ENCRYPTED, f"{kind} by dm-crypt ({_read(block / 'dm/name') or name})")
    below = sorted(path.name for path in (block / "slaves").glob("*"))
    if not below:
        return Place(State.PLAIN, f"{name} has no dm-crypt")
    return _join(below, kernel, name)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


@dataclass(frozen=True)
class Directory:
    """A place that the service uses; in a `private` one lie prompts, answers or secrets."""

    what: str
    path: Path
    private: bool


def list_directories(
    config: ServeConfig, environment: Mapping[str, str], home: Path
) -> Iterator[Directory]:
    """The places of a config, and those that Ray and vLLM use on their own."""
    for tier in config.app.deployed:
        if tier.source.startswith("/"):
            yield Directory(f"model of {tier.name}", Path(tier.source), False)
    for key, path in find_paths(config.runtime, ""):
        yield Directory(key, path, True)
    hubs = [tier for tier in config.app.deployed if not tier.source.startswith(("/", DEMO_PREFIX))]
    if hubs:
        cache = environment.get("HF_HOME", str(home / DEFAULT_CACHE / "huggingface"))
        yield Directory("models from the hub", Path(cache), False)
    cache = environment.get("VLLM_CACHE_ROOT", str(home / DEFAULT_CACHE / "vllm"))
    yield Directory("vLLM's cache", Path(cache), False)
    temporary = environment.get("RAY_TMPDIR", "/tmp")
    yield Directory("Ray's logs and spilled objects", Path(temporary) / "ray", False)
    yield Directory("shared memory", Path("/dev/shm"), False)
    yield from _list_tls(environment)


def _list_tls(environment: Mapping[str, str]) -> Iterator[Directory]:
    """The files of the public port's TLS, and the directory with HAProxy's copies of them."""
    names = [name for name in (CERTIFICATE, KEY, HEADER_SECRET) if environment.get(name)]
    for name in names:
        yield Directory(name, Path(environment[name]), True)
    if names:
        configuration = environment.get(HAPROXY_CONFIGURATION, HAPROXY_CONFIGURATION_DEFAULT)
        yield Directory("HAProxy's copies of keys", Path(configuration).parent, True)


def find_paths(value: object, key: str) -> Iterator[tuple[str, Path]]:
    """Every absolute path in a config model, with its key."""
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from find_paths(getattr(value, name), f"{key}.{name}" if key else name)
    elif isinstance(value, tuple | list):
        for number, item in enumerate(value):
            yield from find_paths(item, f"{key}.{number}")
    elif key.rpartition(".")[2] in PATH_KEYS and str(value).startswith("/"):
        yield key, Path(str(value))


WHY = "Whoever takes the disk, a copy of it or a returned drive reads what lies there."
MEND = "Put it on a LUKS2 volume or an encrypted StorageClass (docs/encryption.md)."


def check_encryption(
    directories: Iterator[Directory], kernel: Kernel | None = None
) -> Iterator[CheckResult]:
    """Say of each place whether it is encrypted, and of the swap too."""
    kernel = kernel or Kernel()
    try:
        for directory in directories:
            place = find_place(directory.path.resolve(), kernel)
            yield _judge(directory, place)
        yield from _check_swap(kernel)
    except OSError as error:
        yield note("encryption", f"{error.filename} cannot be read: {error.strerror}")


def _judge(directory: Directory, place: Place) -> CheckResult:
    check = f"encryption of {directory.what}"
    what = f"{directory.path}: {place.state.value}; {place.what}"
    if place.state is State.PLAIN and directory.private:
        return CheckResult(Level.WARNING, check, what, WHY, MEND)
    if place.state in (State.PLAIN, State.UNKNOWN):
        return note(check, what)
    return ok(check, what)


def _check_swap(kernel: Kernel) -> Iterator[CheckResult]:
    swaps = kernel.swaps()
    if not swaps:
        yield ok("encryption of swap", "there is no swap")
    for name in swaps:
        path = Path(name)
        is_device = name.startswith("/dev/")
        device = Path(os.path.realpath(path)).name if is_device else None
        place = _look_below(device, kernel, 0) if device else find_place(path, kernel)
        what = f"{name}: {place.state.value}; {place.what}"
        if place.state in (State.ENCRYPTED, State.MEMORY):
            yield ok("encryption of swap", what)
        else:
            yield CheckResult(
                Level.WARNING,
                "encryption of swap",
                what,
                "Prompts, answers and keys in memory can be swapped to this disk.",
                "swapoff -a, or swap on dm-crypt with a random key (docs/encryption.md#swap).",
            )
