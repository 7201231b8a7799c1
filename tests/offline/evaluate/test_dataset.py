"""Reading labelled lines, and what is said of bad ones."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from serve_app.offline.evaluate.dataset import Dataset, parse_item, read_dataset
from serve_app.offline.evaluate.evaluation_errors import InvalidDataset

CHECK = {"type": "numeric", "value": 7}
LINE = {"prompt": "3 + 4?", "check": CHECK}


def write(path: Path, *lines: object) -> Path:
    """A file of these lines; bytes go in as they are."""
    rendered = [line if isinstance(line, bytes) else orjson.dumps(line) for line in lines]
    path.write_bytes(b"\n".join(rendered))
    return path


def test_a_whole_line() -> None:
    """Messages are kept as they are, and the check works."""
    messages = [{"role": "user", "content": [{"type": "text", "text": "3 + 4?"}]}]
    tags = {"skill": "sum", "level": "easy"}
    document = {"id": "a", "messages": messages, "check": CHECK, "tags": tags}
    item = parse_item(orjson.dumps(document))
    assert (item.id, item.messages, item.tags) == ("a", messages, tags)
    assert item.check.passes("7")


def test_a_prompt_is_one_message() -> None:
    """The short form means a single turn of the user."""
    item = parse_item(orjson.dumps(LINE))
    assert item.messages == [{"role": "user", "content": "3 + 4?"}]
    assert item.tags == {}


def test_a_line_without_an_id_gets_a_stable_one() -> None:
    """It depends on the content, not on the order of the keys or the place in the file."""
    turned = dict(reversed(LINE.items()))
    ids = [parse_item(orjson.dumps(line)).id for line in (LINE, turned, {**LINE, "prompt": "?"})]
    assert ids[0] == ids[1] == "bb8970ca458b32a9"
    assert ids[2] != ids[0]


def test_a_file(tmp_path: Path) -> None:
    """Empty lines, a byte order mark and Windows line ends mean nothing."""
    path = write(tmp_path / "sums.jsonl", b"\xef\xbb\xbf" + orjson.dumps(LINE) + b"\r", b"", b" ")
    dataset = read_dataset(path)
    assert dataset.name == "sums"
    assert [item.messages[0]["content"] for item in dataset.items] == ["3 + 4?"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"{", "the line: expected JSON (unexpected end of data"),
        (b"[]", "the line: expected an object"),
        (b"\xff", "the line: expected JSON"),
        ({**LINE, "tag": {}}, "tag: expected no such key; the keys are id, messages, prompt"),
        ({**LINE, "id": 3}, "id: expected a string"),
        ({**LINE, "id": ""}, "id: expected a string"),
        ({"check": CHECK}, "messages: expected either `messages` or `prompt`"),
        ({**LINE, "messages": []}, "messages: expected either `messages` or `prompt`"),
        ({"prompt": 3, "check": CHECK}, "prompt: expected a string"),
        ({"messages": [], "check": CHECK}, "messages: expected a list of messages"),
        ({"messages": [{"content": "x"}], "check": CHECK}, "messages[0]: expected an object"),
        ({"prompt": "x"}, "check: expected an object"),
        ({"prompt": "x", "check": {"type": "exact", "value": 3}}, "check.value: expected a string"),
        ({**LINE, "tags": {"level": 1}}, "tags: expected an object of strings"),
        ({**LINE, "tags": []}, "tags: expected an object of strings"),
        (LINE, "exists already"),
    ],
)
def test_a_bad_line(tmp_path: Path, line: object, words: str) -> None:
    """The message names the file, the line, the key and what belongs there."""
    path = write(tmp_path / "set.jsonl", LINE, b"", line)
    with pytest.raises(InvalidDataset) as caught:
        read_dataset(path)
    assert str(caught.value).startswith(f"{path}, line 3: ")
    assert words in str(caught.value)


def test_no_file(tmp_path: Path) -> None:
    """A missing file, a directory and an empty file are named too."""
    empty = write(tmp_path / "empty.jsonl", b"\n")
    for path, words in [
        (tmp_path / "none.jsonl", "No such file"),
        (tmp_path, "directory"),
        (empty, "has no question"),
    ]:
        with pytest.raises(InvalidDataset, match=words):
            read_dataset(path)


def test_the_examples_of_the_docs() -> None:
    """They can be used as they stand."""
    page = Path(__file__).parents[3] / "docs" / "evaluate.md"
    lines = [line for line in page.read_bytes().splitlines() if line.startswith(b"{")]
    for line, answer in zip(lines, ["17 + 25 = 42", "巴黎。"], strict=True):
        assert parse_item(line).check.passes(answer)


def test_a_part_is_drawn(tmp_path: Path) -> None:
    """By chance, but the same for a seed; a larger part holds the smaller one, in file order."""
    lines = [{**LINE, "id": f"{number:03}"} for number in range(100)]
    dataset = read_dataset(write(tmp_path / "set.jsonl", *lines))

    def ids(part: Dataset) -> list[str]:
        return [item.id for item in part.items]

    ten, twenty = ids(dataset.choose(10, seed=1)), ids(dataset.choose(20, seed=1))
    assert len(ten) == 10
    assert set(ten) < set(twenty)
    assert twenty == sorted(twenty)
    assert ten != ids(dataset.choose(10, seed=2))
    assert ids(dataset.choose(None, seed=1)) == ids(dataset)
