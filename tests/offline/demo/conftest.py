"""What the tests of the demo models share: their tokenizer is trained once."""

from collections.abc import Iterator

import pytest
import torch
from tokenizers import Tokenizer

from serve_app.offline.demo.tokenizer import build_tokenizer, draw_corpus


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return build_tokenizer(draw_corpus())


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tests run side by side, and threads of one small model wait more than they work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
