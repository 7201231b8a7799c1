"""How often a model is right, without an engine.

Run as `python -m serve_app.offline.demo.probe MODEL_DIR`.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import GenerationConfig, Qwen3ForCausalLM

from serve_app.offline.demo.skills.example import Example
from serve_app.offline.demo.testset import TESTSET
from serve_app.offline.demo.tokenizer import END_OF_TEXT, TURN_END, TURN_START
from serve_app.offline.evaluate.checks import parse_check

_ANSWER_TOKENS_MAX = 96
_BATCH = 64


@dataclass(frozen=True)
class Question:
    """A line of a labelled set."""

    messages: Sequence[Mapping[str, str]]
    check: Mapping[str, object]
    tags: Mapping[str, str]

    def render(self) -> str:
        """As the chat template renders it."""
        turns = (f"{TURN_START}{m['role']}\n{m['content']}{TURN_END}\n" for m in self.messages)
        return "".join(turns) + f"{TURN_START}assistant\n"


@dataclass(frozen=True)
class Judged:
    question: Question
    answer: str
    right: bool


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m serve_app.offline.demo.probe", description=__doc__
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--set", type=Path, default=TESTSET)
    parser.add_argument("--wrong", action="store_true", help="print the wrong answers")
    options = parser.parse_args(argv)
    model = Qwen3ForCausalLM.from_pretrained(options.model, dtype=torch.bfloat16)
    tokenizer = Tokenizer.from_file(str(options.model / "tokenizer.json"))
    judged = list(probe(model, tokenizer, read_test_questions(options.set)))
    sys.stdout.write(render_table(judged))
    if options.wrong:
        sys.stdout.write("".join(render_wrong(judged)))


def read_test_questions(path: Path) -> list[Question]:
    lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return [Question(line["messages"], line["check"], line["tags"]) for line in lines]


def to_question(example: Example) -> Question:
    messages = [{"role": m.role, "content": m.content} for m in example.messages]
    tags = {"skill": example.skill, "level": example.level, "language": example.language}
    return Question(messages, example.check.render(), tags)


def probe(
    model: Qwen3ForCausalLM, tokenizer: Tokenizer, questions: Iterable[Question]
) -> Iterator[Judged]:
    """Greedy answers, in batches of prompts that are about equally long."""
    ordered = sorted(questions, key=lambda question: len(question.render()))
    for at in range(0, len(ordered), _BATCH):
        batch = ordered[at : at + _BATCH]
        answers = _answer(model, tokenizer, [question.render() for question in batch])
        for question, answer in zip(batch, answers, strict=True):
            yield Judged(question, answer, parse_check(dict(question.check)).passes(answer))


def _answer(model: Qwen3ForCausalLM, tokenizer: Tokenizer, prompts: Sequence[str]) -> list[str]:
    vocab = tokenizer.get_vocab()
    padding = vocab[END_OF_TEXT]
    rows = [tokenizer.encode(prompt).ids for prompt in prompts]
    width = max(map(len, rows))
    ids = torch.tensor([[padding] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    written = model.generate(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        generation_config=GenerationConfig(
            max_new_tokens=_ANSWER_TOKENS_MAX,
            do_sample=False,
            eos_token_id=vocab[TURN_END],
            pad_token_id=padding,
        ),
    )
    return [tokenizer.decode(row) for row in written[:, width:].tolist()]


def accuracy(judged: Iterable[Judged], *tags: str) -> dict[tuple[str, ...], tuple[int, int]]:
    """Right and all, by these tags."""
    counts: dict[tuple[str, ...], tuple[int, int]] = defaultdict(lambda: (0, 0))
    for one in judged:
        key = tuple(one.question.tags[tag] for tag in tags)
        right, total = counts[key]
        counts[key] = (right + one.right, total + 1)
    return dict(sorted(counts.items()))


def render_table(judged: Sequence[Judged]) -> str:
    rows = [
        *accuracy(judged, "level").items(),
        *accuracy(judged, "level", "skill").items(),
        *accuracy(judged, "level", "language").items(),
    ]
    return "".join(
        f"{' '.join(key):<20} {right:>4} of {total:>4}  {right / total:6.1%}\n"
        for key, (right, total) in rows
    )


def render_line(judged: Sequence[Judged]) -> str:
    """All in one line: the levels, then each skill."""
    rows = [*accuracy(judged, "level").items(), *accuracy(judged, "level", "skill").items()]
    return "  ".join(
        f"{'/'.join(part[:5] for part in key)} {right / total:.0%}" for key, (right, total) in rows
    )


def render_wrong(judged: Iterable[Judged]) -> Iterator[str]:
    for one in judged:
        if not one.right:
            asked = one.question.messages[-1]["content"]
            yield f"{asked!r} -> {one.answer!r}, not {one.question.check['value']!r}\n"


if __name__ == "__main__":
    main()
