"""Writes the held-out questions: `python -m serve_app.offline.demo.testset`."""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from random import Random

from serve_app.offline.demo.skills import GENERATORS
from serve_app.offline.demo.skills.example import LANGUAGES, Example, Level, Message

TESTSET = Path(__file__).parent / "testset.jsonl"
SEED = 20

Question = tuple[Message, ...]

# How many of a level, half in each language: 200 easy and 200 hard.
_COUNTS: Mapping[tuple[str, Level], int] = {
    ("talk", "easy"): 30,
    ("facts", "easy"): 50,
    ("arithmetic", "easy"): 40,
    ("lists", "easy"): 30,
    ("units", "easy"): 20,
    ("problems", "easy"): 16,
    ("formats", "easy"): 14,
    ("facts", "hard"): 20,
    ("arithmetic", "hard"): 60,
    ("lists", "hard"): 40,
    ("units", "hard"): 30,
    ("problems", "hard"): 36,
    ("formats", "hard"): 14,
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m serve_app.offline.demo.testset", description=__doc__
    )
    parser.add_argument("--out", type=Path, default=TESTSET)
    parser.add_argument("--seed", type=int, nargs="+", default=[SEED], help="400 questions each")
    parser.add_argument("--without", type=Path, help="leave the questions of this file out")
    options = parser.parse_args(argv)
    known = set() if options.without is None else read_questions(options.without)
    options.out.write_text(render_testset(options.seed, known), encoding="utf-8")
    sys.stdout.write(f"wrote {options.out}\n")


def render_testset(seeds: Sequence[int] = (SEED,), known: Set[Question] = frozenset()) -> str:
    """JSONL; no question twice, and none that is `known`."""
    examples = {example.messages: example for seed in seeds for example in draw_testset(seed)}
    chosen = (example for question, example in examples.items() if question not in known)
    return "".join(
        json.dumps(render_line(number, example), ensure_ascii=False) + "\n"
        for number, example in enumerate(chosen, start=1)
    )


def read_questions(path: Path) -> Set[Question]:
    """The questions of a file that this module wrote."""
    lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return {tuple(Message(m["role"], m["content"]) for m in line["messages"]) for line in lines}


def draw_testset(seed: int = SEED, share: float = 1.0) -> Iterator[Example]:
    """Different questions of the test split; a share of them is the same mixture in small."""
    rng = Random(f"test {seed}")
    for (skill, level), count in _COUNTS.items():
        seen: set[object] = set()
        while len(seen) < round(count * share):
            language = LANGUAGES[len(seen) % len(LANGUAGES)]
            example = GENERATORS[skill](rng, "test", level, language)
            if example.messages not in seen:
                seen.add(example.messages)
                yield example


def render_line(number: int, example: Example) -> dict[str, object]:
    return {
        "id": f"{example.skill}-{example.level}-{number:03d}",
        "messages": [{"role": m.role, "content": m.content} for m in example.messages],
        "check": example.check.render(),
        "tags": {
            "skill": example.skill,
            "level": example.level,
            "language": example.language,
        },
    }


if __name__ == "__main__":
    main()
