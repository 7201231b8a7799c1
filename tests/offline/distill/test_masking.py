"""Lessons in tokens, and packed into rows."""

from __future__ import annotations

from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from serve_app import demo
from serve_app.offline.distill.masking import (
    IGNORED,
    EncodedLesson,
    Tokenizer,
    encode_lesson,
    encode_lessons,
)
from serve_app.offline.distill.packing import build_batch, pack
from serve_app.offline.distill.training_set import Lesson, Message

CONVERSATION = (
    Message("system", "Be brief."),
    Message("user", "What is 2 + 2?"),
    Message("assistant", "= 4"),
    Message("user", "And plus 5?"),
)
LESSON = Lesson(CONVERSATION, "4 + 5 = 9")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return AutoTokenizer.from_pretrained(demo.locate("fast"))


def test_only_the_last_answer_is_learnt(tokenizer: Tokenizer) -> None:
    """With the end of its turn; earlier answers of the conversation are prompt."""
    encoded = encode_lesson(tokenizer, LESSON)
    learnt = [label for label in encoded.labels if label != IGNORED]
    assert tokenizer.decode(learnt) == "4 + 5 = 9<|im_end|>"
    assert encoded.answer_tokens == len(learnt)
    assert len(encoded.labels) == len(encoded.ids)


def test_a_lesson_is_what_the_engine_sees_and_writes(tokenizer: Tokenizer) -> None:
    """The template's rendering of the whole conversation begins with it."""
    encoded = encode_lesson(tokenizer, LESSON)
    turns = [{"role": turn.role, "content": turn.content} for turn in CONVERSATION]
    prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert tokenizer.decode(encoded.ids[: encoded.answer_start]) == prompt
    turns.append({"role": "assistant", "content": LESSON.answer})
    whole = tokenizer.apply_chat_template(turns, tokenize=False)
    assert whole.startswith(tokenizer.decode(encoded.ids))


def test_long_lessons_are_left_out_and_counted(tokenizer: Tokenizer) -> None:
    """A cut answer would teach to stop in the middle."""
    long = Lesson(CONVERSATION, "4 " * 500)
    fitting, left_out = encode_lessons(tokenizer, [LESSON, long], 200)
    assert len(fitting) == 1
    assert left_out == 1


LESSONS = st.lists(
    st.builds(
        lambda prompt, answer: EncodedLesson(tuple(range(1, prompt + answer + 1)), prompt),
        st.integers(1, 20),
        st.integers(1, 20),
    ),
    min_size=1,
    max_size=20,
)


@given(lessons=LESSONS, row_tokens=st.integers(1, 60), seed=st.integers(0, 9))
def test_every_lesson_is_in_one_row(
    lessons: list[EncodedLesson], row_tokens: int, seed: int
) -> None:
    """No row is longer than allowed, unless a single lesson is; the seed alone gives the order."""
    rows = pack(lessons, row_tokens, Random(seed))
    assert sorted(id(lesson) for row in rows for lesson in row) == sorted(map(id, lessons))
    for row in rows:
        assert row
        assert len(row) == 1 or sum(len(lesson.ids) for lesson in row) <= row_tokens
    assert rows == pack(lessons, row_tokens, Random(seed))


@given(lessons=LESSONS)
def test_a_batch_teaches_each_answer_once(lessons: list[EncodedLesson]) -> None:
    """As many labels as answer tokens, each the token after its place; no lesson sees another."""
    rows = pack(lessons, 50, Random(0))
    batch = build_batch(rows, padding=0)
    wanted = batch.labels != IGNORED
    assert int(wanted.sum()) == sum(lesson.answer_tokens for lesson in lessons)
    after = torch.roll(batch.ids, -1, dims=1)
    assert torch.equal(batch.labels[wanted], after[wanted])
    for index, seen in enumerate(batch.attention[:, 0]):
        reader, read = seen.nonzero(as_tuple=True)
        assert torch.equal(batch.lesson[index, reader], batch.lesson[index, read])
        assert bool((read <= reader).all())
        assert bool((batch.positions[index, reader] >= batch.positions[index, read]).all())
