"""Trains the demo models that read: `embed` makes vectors of texts, `rerank` scores pairs of texts.

Run as `python -m serve_app.offline.demo.retrieval [--model embed|rerank|all]`. Both learn from the
facts of `skills/`: the question for a fact and the sentence that states it belong together. They
have the form of Qwen3-Embedding (the vector is the last token's state) and of Qwen3-Reranker (the
score is the logit of one token against another, after a template).
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import torch
from tokenizers import Tokenizer, processors
from torch import Tensor
from torch.nn import functional
from transformers import Qwen3Config, Qwen3ForCausalLM

from serve_app.demo import CHECKPOINTS, READERS
from serve_app.offline.demo.architecture import ARCHITECTURES, render_config
from serve_app.offline.demo.checkpoint import write_checkpoint
from serve_app.offline.demo.skills import facts
from serve_app.offline.demo.skills.example import LANGUAGES, Split
from serve_app.offline.demo.tokenizer import END_OF_TEXT, TURN_END, build_tokenizer, draw_corpus

TEMPLATE = (
    "<|im_start|>query\n{query}<|im_end|>\n"
    "<|im_start|>document\n{document}<|im_end|>\n<|im_start|>assistant\n"
)
"""What the reranker reads; `configs/local-rag.yaml` has the same as a chat template."""
NO, YES = "n", "y"
"""The tokens whose logits are compared; the vocabulary has no words for them."""
PAIRS = 48
"""Facts in a step, all different: each is a wrong answer to the questions of the others."""
TEMPERATURE = 0.05
RISE_STEPS = 50
SEED = 11


@dataclass(frozen=True)
class Fact:
    """A question, and the sentence that answers it."""

    question: str
    statement: str


@dataclass(frozen=True)
class ReadingRecipe:
    """How one model is trained."""

    steps: int
    learning_rate: float


RECIPES = {
    "embed": ReadingRecipe(steps=300, learning_rate=5e-3),
    "rerank": ReadingRecipe(steps=200, learning_rate=5e-3),
}


def draw_facts(rng: Random, split: Split, count: int) -> list[Fact]:
    """Questions for so many different facts, in both languages."""
    found: dict[str, Fact] = {}
    while len(found) < count:
        example = facts.generate(rng, split, "easy", rng.choice(LANGUAGES))
        if len(example.messages) == 1:
            found[example.answer] = Fact(example.messages[0].content, example.answer)
    return list(found.values())


def end_texts(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer with a token at the end of each text, whose state is the text's vector."""
    ended = Tokenizer.from_str(tokenizer.to_str())
    end = (END_OF_TEXT, ended.token_to_id(END_OF_TEXT))
    ended.post_processor = processors.TemplateProcessing(f"$A {END_OF_TEXT}", special_tokens=[end])
    return ended


class Reader:
    """A model that reads texts, and the last states that it has after each."""

    def __init__(self, name: str, tokenizer: Tokenizer) -> None:
        vocab = tokenizer.get_vocab()
        ends = vocab[END_OF_TEXT], vocab[TURN_END]
        config = Qwen3Config.from_dict(render_config(ARCHITECTURES[name], *ends))
        torch.manual_seed(SEED)
        self.model = Qwen3ForCausalLM(config).float()
        self._tokenizer = tokenizer
        self._pad = vocab[END_OF_TEXT]
        self._signs = vocab[NO], vocab[YES]

    def last_states(self, texts: Sequence[str]) -> Tensor:
        """The state after the last token of each text; what pads on the right is not looked at."""
        encoded = [self._tokenizer.encode(text).ids for text in texts]
        longest = max(map(len, encoded))
        ids = torch.tensor([each + [self._pad] * (longest - len(each)) for each in encoded])
        hidden = self.model.model(input_ids=ids, use_cache=False).last_hidden_state
        return hidden[torch.arange(len(texts)), torch.tensor([len(each) - 1 for each in encoded])]

    def vectors(self, texts: Sequence[str]) -> Tensor:
        """A vector of length one for each text."""
        return functional.normalize(self.last_states(texts), dim=-1)

    def scores(self, pairs: Sequence[tuple[str, str]]) -> Tensor:
        """The logits of YES over NO: how well each document answers its query."""
        texts = [TEMPLATE.format(query=query, document=document) for query, document in pairs]
        weight = self.model.lm_head.weight
        return self.last_states(texts) @ (weight[self._signs[1]] - weight[self._signs[0]])


def embedding_loss(reader: Reader, batch: Sequence[Fact], rng: Random) -> Tensor:
    """Each question is nearest to its own statement, and each statement to its own question."""
    questions = reader.vectors([fact.question for fact in batch])
    statements = reader.vectors([fact.statement for fact in batch])
    nearness = questions @ statements.T / TEMPERATURE
    own = torch.arange(len(batch))
    return functional.cross_entropy(nearness, own) + functional.cross_entropy(nearness.T, own)


def reranking_loss(reader: Reader, batch: Sequence[Fact], rng: Random) -> Tensor:
    """A question's own statement scores high, the likest other one and any other one low."""
    half = batch[: len(batch) // 2]
    pairs = [(fact.question, fact.statement) for fact in half]
    wrong = [(fact.question, rng.choice(batch).statement) for fact in half]
    wrong += [(fact.question, find_likest(fact, batch).statement) for fact in half]
    scores = reader.scores([*pairs, *wrong])
    answers = {fact.question: fact.statement for fact in half}
    told = [float(answers[question] == statement) for question, statement in [*pairs, *wrong]]
    return functional.binary_cross_entropy_with_logits(scores, torch.tensor(told))


def find_likest(fact: Fact, batch: Sequence[Fact]) -> Fact:
    """Another fact whose statement has the most characters in common at its start and its end."""

    def likeness(other: Fact) -> int:
        shared = zip(fact.statement, other.statement, strict=False)
        return sum(one == two for one, two in shared) if other is not fact else -1

    return max(batch, key=likeness)


LOSSES: dict[str, Callable[[Reader, Sequence[Fact], Random], Tensor]] = {
    "embed": embedding_loss,
    "rerank": reranking_loss,
}


def train(name: str, reader: Reader, recipe: ReadingRecipe) -> Iterator[float]:
    """The loss of each step."""
    rng = Random(f"{SEED} {name}")
    optimizer = torch.optim.AdamW(reader.model.parameters(), lr=recipe.learning_rate)
    for step in range(recipe.steps):
        rise, left = min(1.0, (step + 1) / RISE_STEPS), 1 - step / recipe.steps
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * rise * left
        loss = LOSSES[name](reader, draw_facts(rng, "train", PAIRS), rng)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(reader.model.parameters(), 1.0)
        optimizer.step()
        yield float(loss.item())


def count_found(name: str, reader: Reader, asked: Sequence[Fact], candidates: int) -> int:
    """How many questions have their own statement first among so many statements."""
    statements = [fact.statement for fact in asked]
    found = 0
    for index, fact in enumerate(asked):
        others = [statements[(index + 1 + step) % len(asked)] for step in range(candidates - 1)]
        found += int(find_nearest(name, reader, fact.question, [fact.statement, *others]) == 0)
    return found


def find_nearest(name: str, reader: Reader, question: str, offered: Sequence[str]) -> int:
    """The place of the statement that the model takes for the answer."""
    with torch.inference_mode():
        if name == "embed":
            nearness = reader.vectors(offered) @ reader.vectors([question])[0]
        else:
            nearness = reader.scores([(question, each) for each in offered])
        return int(nearness.argmax().item())


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m serve_app.offline.demo.retrieval", description=__doc__
    )
    parser.add_argument("--model", choices=[*READERS, "all"], default="all")
    parser.add_argument("--steps", type=int, help="instead of the recipe's")
    parser.add_argument("--out", type=Path, default=CHECKPOINTS)
    options = parser.parse_args(argv)
    tokenizer = build_tokenizer(draw_corpus())
    for name in READERS if options.model == "all" else (options.model,):
        own = end_texts(tokenizer) if name == "embed" else tokenizer
        recipe = replace(RECIPES[name], steps=options.steps or RECIPES[name].steps)
        make(name, own, recipe, options.out)


def make(name: str, tokenizer: Tokenizer, recipe: ReadingRecipe, out: Path) -> None:
    """Train one model, say how often it is right, and write its checkpoint."""
    reader, started_s = Reader(name, tokenizer), time.monotonic()
    for step, loss in enumerate(train(name, reader, recipe)):
        if step % 50 == 0:
            _say(name, f"step {step}  loss {loss:.4f}  {time.monotonic() - started_s:.0f} s")
    asked = draw_facts(Random(SEED), "test", 100)
    found = count_found(name, reader, asked, candidates=20)
    _say(name, f"{found} of {len(asked)} held-out questions find their fact among 20")
    weights = reader.model.state_dict()
    write_checkpoint(out / name, ARCHITECTURES[name], tokenizer, weights)


def _say(name: str, text: str) -> None:
    sys.stdout.write(f"{name:<6} {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
