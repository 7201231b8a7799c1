"""What the tests of the demo models share: their tokenizer is trained once."""

import pytest
from tokenizers import Tokenizer

from serve_app.offline.demo.tokenizer import build_tokenizer, draw_corpus


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return build_tokenizer(draw_corpus())
