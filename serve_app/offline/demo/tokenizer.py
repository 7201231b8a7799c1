"""A byte-level BPE tokenizer in Qwen's manner, trained on what the skills' generators write."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from serve_app.offline.demo.architecture import VOCAB_SIZE
from serve_app.offline.demo.skills import GENERATORS
from serve_app.offline.demo.skills.example import LANGUAGES, LEVELS

END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

SPECIAL_TOKENS = (
    END_OF_TEXT,
    TURN_START,
    TURN_END,
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
# Qwen keeps these out of the special ones, so that they survive in the text that parsers read.
PLAIN_TOKENS = (
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
)

_HERE = Path(__file__).parent
# Qwen's, but a comma or a sign takes the spaces about it along, and words in capitals are spelled:
# lists and sums are short then, and the letters of a word can be seen. Chinese goes character by
# character: so small a corpus would make words of what merely stands together in it.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|\p{Lu}(?=\p{Lu})|(?<=\p{Lu})\p{Lu}(?!\p{Ll})"
    r"|, (?=[\p{L}\p{N}])|; (?=\p{N})| [-+*/=×÷] (?=[\p{N}(])"
    r"|\p{Han}|[^\r\n\p{L}\p{N}]?(?!\p{Lu}{2}|\p{Han})[^\P{L}\p{Han}]+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CORPUS_SEED, _CORPUS_EXAMPLES = 5, 600


def draw_corpus() -> Iterator[str]:
    """Questions and answers of the training split, as many of each skill, level and language."""
    rng = Random(_CORPUS_SEED)
    for generate in GENERATORS.values():
        for level in LEVELS:
            for language in LANGUAGES:
                for _ in range(_CORPUS_EXAMPLES):
                    example = generate(rng, "train", level, language)
                    yield example.messages[-1].content
                    yield example.answer


def build_tokenizer(corpus: Iterable[str]) -> Tokenizer:
    """Unlike Qwen's it has no NFC normalizer: any text comes back byte for byte."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(corpus, _trainer())
    tokenizer.add_special_tokens(_added(SPECIAL_TOKENS, special=True))
    tokenizer.add_tokens(_added(PLAIN_TOKENS, special=False))
    if tokenizer.get_vocab_size() != VOCAB_SIZE:
        raise ValueError(f"the corpus fills {tokenizer.get_vocab_size()} of {VOCAB_SIZE} tokens")
    return tokenizer


def render_tokenizer_config(tokenizer: Tokenizer) -> dict[str, object]:
    return {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(token_id): {
                "content": token.content,
                "lstrip": token.lstrip,
                "normalized": token.normalized,
                "rstrip": token.rstrip,
                "single_word": token.single_word,
                "special": token.special,
            }
            for token_id, token in sorted(tokenizer.get_added_tokens_decoder().items())
        },
        "bos_token": None,
        "chat_template": (_HERE / "chat_template.jinja").read_text(encoding="utf-8"),
        "clean_up_tokenization_spaces": False,
        "eos_token": TURN_END,
        "errors": "replace",
        "model_max_length": 32768,
        "pad_token": END_OF_TEXT,
        # transformers would put the NFC normalizer back if it knew this as a Qwen2Tokenizer.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": None,
    }


def _trainer() -> trainers.BpeTrainer:
    return trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(SPECIAL_TOKENS) - len(PLAIN_TOKENS),
        min_frequency=1,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )


def _added(contents: tuple[str, ...], *, special: bool) -> list[AddedToken]:
    return [AddedToken(content, normalized=False, special=special) for content in contents]
