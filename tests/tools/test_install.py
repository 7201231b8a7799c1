"""The rules by which an install trusts, updates or replaces .venv, on a fake one."""

import sys
from collections.abc import Sequence
from pathlib import Path

import pins
import pytest
from environment import InstallFailed, Venv
from install import install, one_at_a_time

OURS = "{}.{}".format(*sys.version_info)


class FakeEnvironment:
    """An environment that installs exactly what the locks pin, and writes down what was done."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.runs: str | None = None
        self.present: dict[str, str] = {}
        self.done: list[str] = []
        self.interrupted = False

    def version(self) -> str | None:
        return self.runs

    def packages(self) -> pins.Pins:
        return self.present

    def create(self) -> None:
        (self.root / ".venv").mkdir(exist_ok=True)
        self.runs, self.present = OURS, {}
        self.done.append("create")

    def install(self, locks: Sequence[str]) -> None:
        self.done.append("install " + " ".join(locks))
        if self.interrupted:
            raise KeyboardInterrupt
        self.present["app"] = "1"
        for lock in locks:
            self.present.update(pins.read_lock(self.root, lock))

    def take_done(self) -> list[str]:
        done, self.done = self.done, []
        return done


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project with two locks."""
    (tmp_path / "requirements").mkdir()
    pins.pyproject(tmp_path).write_text('[project]\nname = "app"\nversion = "1"\n')
    pins.lock_file(tmp_path, "cpu").write_text("ray==2\n")
    pins.lock_file(tmp_path, "dev").write_text("ruff==1\n")
    return tmp_path


@pytest.fixture
def environment(root: Path) -> FakeEnvironment:
    """One that holds cpu.txt, completely."""
    environment = FakeEnvironment(root)
    install(root, ["cpu"], environment, same_python=False)
    assert environment.take_done() == ["create", "install cpu"]
    return environment


def again(
    environment: FakeEnvironment, *locks: str, root: Path | None = None, same_python: bool = False
) -> list[str]:
    """What the next run does."""
    install(root or environment.root, locks or ["cpu"], environment, same_python=same_python)
    return environment.take_done()


def test_a_complete_environment_is_left_alone(environment: FakeEnvironment) -> None:
    """The second run changes nothing, whichever Python made the environment."""
    assert again(environment) == []
    assert again(environment, same_python=True) == []


def test_a_further_lock_is_added_in_place(environment: FakeEnvironment) -> None:
    """The runtime alone first, the test tools on top of it later, and both are remembered."""
    assert again(environment, "cpu", "dev") == ["install cpu dev"]
    assert again(environment, "cpu", "dev") == []
    assert again(environment, "cpu") == []


def test_an_interrupted_install_is_never_trusted(environment: FakeEnvironment) -> None:
    """An update that was cut short leaves half an environment, and the next run replaces it."""
    environment.interrupted = True
    with pytest.raises(KeyboardInterrupt):
        again(environment, "dev")
    environment.interrupted = False
    environment.take_done()
    assert again(environment) == ["create", "install cpu"]


def test_a_changed_lock_updates_in_place(environment: FakeEnvironment) -> None:
    """A new pin costs one package and not a whole environment."""
    pins.lock_file(environment.root, "cpu").write_text("ray==3\n")
    assert again(environment) == ["install cpu"]


@pytest.mark.parametrize("present", [{"app": "1"}, {"app": "1", "ray": "9"}, {"ray": "2"}])
def test_packages_changed_by_hand_are_put_right(
    environment: FakeEnvironment, present: dict[str, str]
) -> None:
    """A pin that is missing or of another version, or the project itself taken out."""
    environment.present = present
    assert again(environment) == ["install cpu"]


def test_an_install_that_does_not_hold_the_locks_fails(environment: FakeEnvironment) -> None:
    """Whatever pip says, an excluded package means no stamp."""
    environment.present["triton"] = "3"
    with pytest.raises(InstallFailed, match=r"triton must not be in \.venv"):
        again(environment)
    environment.take_done()
    assert again(environment) == ["create", "install cpu"]


def test_a_python_that_is_gone_means_a_new_environment(environment: FakeEnvironment) -> None:
    """The links in bin/ outlive the Python that they point to."""
    environment.runs = None
    assert again(environment) == ["create", "install cpu"]


def test_another_python_is_kept_unless_one_is_named(environment: FakeEnvironment) -> None:
    """PYTHON=... at the first run needs no repeating; a different one later is obeyed."""
    stamp = environment.root / ".venv" / "installed.json"
    stamp.write_text(stamp.read_text().replace(OURS, "3.99"))
    environment.runs = "3.99"
    assert again(environment) == []
    assert again(environment, same_python=True) == ["create", "install cpu"]


def test_a_copied_directory_gets_its_own(environment: FakeEnvironment, tmp_path: Path) -> None:
    """Scripts and the editable install name the directory that they were made for."""
    copy = environment.root.rename(tmp_path.with_name(tmp_path.name + "-moved"))
    environment.root = copy
    assert again(environment, root=copy) == ["create", "install cpu"]


@pytest.mark.parametrize("stamp", ["", "{", '{"root":'])
def test_a_torn_stamp_is_no_stamp(environment: FakeEnvironment, stamp: str) -> None:
    """What cannot be read was never finished."""
    (environment.root / ".venv" / "installed.json").write_text(stamp)
    assert again(environment) == ["create", "install cpu"]


def test_no_environment_has_neither_version_nor_packages(root: Path) -> None:
    """A missing .venv and an empty one are told apart from a working one without an error."""
    assert (Venv(root).version(), Venv(root).packages()) == (None, {})
    (root / ".venv" / "bin").mkdir(parents=True)
    (root / ".venv" / "bin" / "python").symlink_to("/nowhere/python3")
    assert Venv(root).version() is None


def test_a_finished_install_lets_the_next_one_in(root: Path) -> None:
    """The lock ends with its block, and again with the block of the next holder."""
    for _ in range(2):
        with one_at_a_time(root):
            assert root.exists()
