"""The whole check of a model directory: one damage at a time, and what is said of it."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from serve_app.model_files.finding import Finding, printable
from serve_app.model_files.integrity import make_sums
from serve_app.model_files.sums import write_sums
from serve_app.offline.checkpoints.check import check_model

Damage = Callable[[Path], object]


def change(name: str, **keys: object) -> Damage:
    """Set keys of a JSON file; None removes them."""

    def damage(model: Path) -> None:
        value = json.loads((model / name).read_text()) | keys
        kept = {key: item for key, item in value.items() if item is not None}
        (model / name).write_text(json.dumps(kept))

    return damage


def write(name: str, content: bytes) -> Damage:
    return lambda model: (model / name).write_bytes(content)


def remove(name: str) -> Damage:
    return lambda model: (model / name).unlink()


def link(name: str, target: str) -> Damage:
    return lambda model: (model / name).symlink_to(target)


def bind_socket(model: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(model / "odd.json"))


def found(model: Path) -> list[Finding]:
    return check_model(model).findings


def test_a_good_model(model: Path) -> None:
    """Nothing is found, and the report says what was looked at and what was not."""
    report = check_model(model)
    assert (report.ok, report.findings) == (True, [])
    assert report.checked["weights"] == "1 safetensors file, 1 tensor: 8 F32"
    assert "1 chat template" in report.checked["settings"]
    assert "not checked" in report.checked["sums"]


@pytest.mark.parametrize(
    ("damage", "where", "words"),
    [
        (remove("config.json"), "config.json", "not there"),
        (write("config.json", b"{"), "config.json", "not valid JSON"),
        (write("config.json", b"[]"), "config.json", "not a JSON object"),
        (write("config.json", b"\xff"), "config.json", "not UTF-8"),
        (write("config.json", b'{"a":' * 100_000), "config.json", "nested too deep"),
        (write("config.json", b"9" * 5000), "config.json", "digits"),
        (change("config.json", model_type=None), "config.json", "no model_type"),
        (change("config.json", architectures=[]), "config.json", "no architectures"),
        (change("config.json", eos_token_id=4), "config.json", "outside the vocabulary of 4"),
        (change("config.json", bos_token_id="x"), "config.json", "bos_token_id is not a token id"),
        (change("config.json", auto_map={"AutoModel": "m.M"}), "config.json", "auto_map"),
        (change("tokenizer_config.json", auto_map={"A": "m.M"}), "tokenizer_config.json", "auto_m"),
        (change("generation_config.json", eos_token_id=[3, 4]), "generation_config.json", "is 4"),
        (change("config.json", vocab_size=3, eos_token_id=2), "tokenizer.json", "up to 3"),
        (
            change("config.json", vocab_size=None, eos_token_id=2, text_config={"vocab_size": 3}),
            "tokenizer.json",
            "vocab_size is 3",
        ),
        (
            change("tokenizer_config.json", added_tokens_decoder={"4": {"content": "<x>"}}),
            "tokenizer.json",
            "up to 4",
        ),
        (change("tokenizer_config.json", eos_token="<x>"), "tokenizer_config.json", "'<x>'"),
        (remove("tokenizer.json"), "tokenizer.json", "no tokenizer"),
        (write("tokenizer.json", b"{}"), "tokenizer.json", "cannot be loaded"),
        (write("tokenizer.json", b"[" * 100_000), "tokenizer.json", "cannot be loaded"),
        (change("tokenizer_config.json", chat_template="{% if"), "tokenizer_config.json", "Jinja"),
        (
            change("tokenizer_config.json", chat_template="{% if 1 %}" * 5000),
            "tokenizer_config.json",
            "chat template",
        ),
        (change("tokenizer_config.json", chat_template=7), "tokenizer_config.json", "not text"),
        (write("chat_template.jinja", b"{{ x"), "chat_template.jinja", "Jinja"),
        (write("chat_template.jinja", b"\xff"), "chat_template.jinja", "not readable"),
        (write("model.safetensors", b""), "model.safetensors", "not a valid safetensors file"),
        (write("model.safetensors", pickle.dumps([1])), "model.safetensors", "not a valid"),
        (remove("model.safetensors"), ".", "no safetensors file"),
        (write("pytorch_model.bin", b""), "pytorch_model.bin", "by its name"),
        (write("training_args.PT", b""), "training_args.PT", "by its name"),
        (write("weights", pickle.dumps({"a": 1})), "weights", "a pickle by its first bytes"),
        (write("weights.json", b"PK\x03\x04rest"), "weights.json", "torch.save"),
        (link("extra.json", "/etc/passwd"), "extra.json", "leaves the directory, to /etc/passwd"),
        (link("extra", "/etc"), "extra", "leaves the directory"),
        (link("extra.json", "nowhere"), "extra.json", "cannot be read"),
        (link("extra.json", "extra.json"), "extra.json", "cannot be read"),
        (link("extra", "."), "extra", "not a regular file"),
        (lambda model: os.mkfifo(model / "odd.json"), "odd.json", "not a regular file"),
        (link("odd.json", "/dev/zero"), "odd.json", "/dev/zero"),
        (bind_socket, "odd.json", "not a regular file"),
    ],
)
def test_a_damage_is_found(model: Path, damage: Damage, where: str, words: str) -> None:
    """One finding, fatal, with the file and the way to mend it."""
    damage(model)
    findings = found(model)
    assert [finding.where for finding in findings if finding.fatal] == [where]
    assert words in findings[0].what
    assert findings[0].mend


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (change("tokenizer_config.json", chat_template=None), "no chat template"),
        (
            lambda model: (model / "tokenizer.json").rename(model / "vocab.json"),
            "older forms are not checked",
        ),
    ],
)
def test_a_lack_that_some_models_have_is_a_warning(model: Path, damage: Damage, words: str) -> None:
    """An embedding model needs no template; an old tokenizer still works."""
    damage(model)
    report = check_model(model)
    assert report.ok
    assert [words in finding.what for finding in report.findings] == [True]


@pytest.mark.parametrize(
    "damage",
    [
        change("config.json", eos_token_id=None, bos_token_id=None),
        change("tokenizer_config.json", eos_token={"content": "<|end|>"}),
        change("tokenizer_config.json", chat_template=[{"name": "default", "template": "x"}]),
        write("chat_template.jinja", b"{% for m in messages %}{% break %}{% endfor %}"),
        # The length of this header begins as pickles of protocol 2 do.
        write("b.safetensors", (640).to_bytes(8, "little") + b"{}".ljust(640)),
        link("other.json", "config.json"),
        lambda model: (model / ".cache").mkdir() or write(".cache/x.bin", b"")(model),
    ],
)
def test_what_good_models_have_is_not_found(model: Path, damage: Damage) -> None:
    """No false alarm."""
    damage(model)
    assert found(model) == []


def test_a_template_is_not_run(model: Path) -> None:
    """Neither rendered nor folded: this one would take all memory."""
    write("chat_template.jinja", b"{{ 'x' * 10 ** 12 }}{{ 9 ** 9 ** 9 }}")(model)
    assert found(model) == []


def test_remote_code_can_be_allowed(model: Path) -> None:
    """The finding says how."""
    change("config.json", auto_map={"AutoModel": "m.M"})(model)
    assert "--allow-remote-code" in found(model)[0].mend
    assert check_model(model, allow_remote_code=True).ok


def test_the_hub_cache_may_link_to_its_blobs(model: Path, tmp_path: Path) -> None:
    """snapshots/REVISION/file -> ../../blobs/SUM is how the cache is built; not another model's."""
    snapshot, blobs = tmp_path / "hub/snapshots/abc", tmp_path / "hub/blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for path in model.iterdir():
        (snapshot / path.name).symlink_to(f"../../blobs/{path.rename(blobs / path.name).name}")
    assert found(snapshot) == []
    (tmp_path / "hub/secret.json").write_text("{}")
    (snapshot / "other.json").symlink_to("../../secret.json")
    assert [finding.where for finding in found(snapshot)] == ["other.json"]


def test_sums_hold(model: Path) -> None:
    """Those of the directory itself, and those that are given instead."""
    sums = make_sums(model)
    assert "6 files" in check_model(model, sums).checked["sums"]
    write_sums(model, sums)
    assert found(model) == []


@pytest.mark.parametrize(
    ("damage", "where", "words"),
    [
        (write("tokenizer_config.json", b"{}"), "tokenizer_config.json", "SHA-256 differs"),
        (remove("generation_config.json"), "generation_config.json", "but not there"),
        (write("extra.json", b"{}"), "extra.json", "not in the list"),
        (
            lambda model: shutil.copy(model / "model.safetensors", model / "LICENSE.safetensors"),
            "LICENSE.safetensors",
            "not in the list",
        ),
        (write("SHA256SUMS", b"nonsense"), "SHA256SUMS", "line 1"),
    ],
)
def test_sums_that_do_not_hold(model: Path, damage: Damage, where: str, words: str) -> None:
    """Changed, missing and additional files are three different findings."""
    write_sums(model, make_sums(model))
    damage(model)
    findings = [finding for finding in found(model) if finding.fatal]
    assert [(finding.where, words in finding.what) for finding in findings] == [(where, True)]


def test_sums_leave_some_files_alone(model: Path) -> None:
    """Documents and hidden files may come and go, and a list may hold itself, as `*` does."""
    write_sums(model, make_sums(model) | {"SHA256SUMS": "0" * 64, ".git/HEAD": "0" * 64})
    (model / "LICENSE").write_text("new")
    (model / ".gitattributes").write_text("new")
    assert found(model) == []


@pytest.mark.parametrize(
    "name", ["a b.json", "new\nline.json", "文件.json", "\udcff.json", "\x1b[2J"]
)
def test_odd_names(model: Path, name: str) -> None:
    """Listed, checked and shown without harm to the terminal."""
    write(name, b"{}")(model)
    sums = make_sums(model)
    assert name in sums
    write_sums(model, sums)
    assert found(model) == []
    write(name, b"changed")(model)
    (finding,) = found(model)
    shown = str(finding)
    assert finding.where == name
    assert shown.replace("\n  mend: ", "").isprintable()


def test_printable_is_bounded() -> None:
    """However long a name in a file is."""
    assert len(printable("x" * 10_000)) == 500
    assert printable("\x1b]0;\u202e\n") == "\\x1b]0;\\u202e\\n"
