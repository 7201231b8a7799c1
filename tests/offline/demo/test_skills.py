"""The generators: deterministic, right by their own checks, and split by content."""

from itertools import product
from random import Random

import pytest

from serve_app.offline.demo.skills import GENERATORS
from serve_app.offline.demo.skills.arithmetic import Step, draw_chain, render_chain
from serve_app.offline.demo.skills.countries import COUNTRIES
from serve_app.offline.demo.skills.example import (
    LANGUAGES,
    LEVELS,
    Example,
    Language,
    Level,
    Split,
    split_of,
)
from serve_app.offline.demo.skills.relations import RELATIONS
from serve_app.offline.evaluate.checks import parse_check

KINDS = list(product(GENERATORS, LEVELS, LANGUAGES))


def draw(
    skill: str, level: Level, language: Language, split: Split, count: int = 40
) -> list[Example]:
    rng = Random(f"{skill} {level} {language} {split}")
    generate = GENERATORS[skill]
    return [generate(rng, split, level, language) for _ in range(count)]


@pytest.mark.parametrize(("skill", "level", "language"), KINDS)
def test_the_same_seed_gives_the_same_examples(
    skill: str, level: Level, language: Language
) -> None:
    """Nothing but the generator of random numbers decides what is drawn."""
    assert draw(skill, level, language, "train") == draw(skill, level, language, "train")


@pytest.mark.parametrize(("skill", "level", "language"), KINDS)
@pytest.mark.parametrize("split", ["train", "test"])
def test_checks_accept_the_answers(
    skill: str, level: Level, language: Language, split: Split
) -> None:
    """What the models are taught is right, with the working and without."""
    for example in draw(skill, level, language, split):
        check = parse_check(example.check.render())
        assert check.passes(example.answer), example
        assert check.passes(example.short_answer or example.answer), example
        assert not check.passes("I do not know."), example


@pytest.mark.parametrize(("skill", "level", "language"), KINDS)
def test_an_example_says_what_it_is(skill: str, level: Level, language: Language) -> None:
    """Its tags are those it was drawn for; only talk has nothing hard in it."""
    for example in draw(skill, level, language, "train"):
        assert (example.skill, example.language) == (skill, language)
        assert example.level == ("easy" if skill == "talk" else level)
        assert [m.role for m in example.messages[::2]] == ["user"] * len(example.messages[::2])


@pytest.mark.parametrize(("skill", "level", "language"), KINDS)
def test_the_splits_are_disjoint(skill: str, level: Level, language: Language) -> None:
    """No phrasing, and none of the new numbers or lists, of a test question occurs in training."""
    trained = draw(skill, level, language, "train", 300)
    held_out = draw(skill, level, language, "test", 100)
    assert not {e.phrasing for e in trained} & {e.phrasing for e in held_out}
    assert not {e.messages[-1] for e in trained} & {e.messages[-1] for e in held_out}
    seen = {content for e in trained for content in e.contents}
    assert {split_of(content) for content in seen} <= {"train"}
    for example in held_out:
        assert not example.contents or set(example.contents) - seen, example


def test_the_split_is_pinned() -> None:
    """Another hash would move what trained models have seen into the test split."""
    assert [n for n in range(40) if split_of(f"{n}+{n}") == "test"] == PINNED


PINNED = [3, 4, 13, 16, 32, 34, 35]


def test_the_facts_are_many_and_unambiguous() -> None:
    """Some two hundred of them; no country or capital stands twice."""
    facts = len(COUNTRIES) + sum(len(relation.facts) for relation in RELATIONS)
    assert facts >= 200
    for column in range(4):
        assert len({country[column] for country in COUNTRIES}) == len(COUNTRIES)


def test_chains_are_what_they_say() -> None:
    """The expression has the value of the last step under the usual order of operations."""
    rng = Random(1)
    for _ in range(300):
        chain = draw_chain(rng, 4)
        assert eval(render_chain(chain)) == chain[-1].result
        assert all(0 <= step.result <= 100 for step in chain)


def test_a_chain_is_bracketed_where_it_must_be() -> None:
    """A product of a sum needs brackets, a sum of a product does not."""
    chain = [Step(2, "*", 3), Step(6, "+", 4), Step(10, "*", 2)]
    assert render_chain(chain) == "(2 * 3 + 4) * 2"
