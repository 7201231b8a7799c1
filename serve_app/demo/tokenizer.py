"""A byte-level BPE tokenizer in Qwen's manner, trained on the small corpus beside this file."""

from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from serve_app.demo.architecture import VOCAB_SIZE

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
_QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Keeps whole Chinese clauses, which stand once in the corpus, from becoming single tokens.
_TOKEN_BYTES_MAX = 12


def load_corpus() -> str:
    return (_HERE / "corpus.txt").read_text(encoding="utf-8")


def build_tokenizer(corpus: str) -> Tokenizer:
    """Unlike Qwen's it has no NFC normalizer: any text comes back byte for byte."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_QWEN_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator([corpus], _trainer())
    tokenizer.add_special_tokens(_added(SPECIAL_TOKENS, special=True))
    tokenizer.add_tokens(_added(PLAIN_TOKENS, special=False))
    if tokenizer.get_vocab_size() != VOCAB_SIZE:
        raise ValueError(f"the corpus fills {tokenizer.get_vocab_size()} of {VOCAB_SIZE} tokens")
    return tokenizer


def encode_whole_characters(tokenizer: Tokenizer, text: str) -> list[int]:
    """Leaves out the tokens that are a part of a character: alone they decode to no text."""
    return [
        i
        for i in tokenizer.encode(text).ids
        if "\N{REPLACEMENT CHARACTER}" not in tokenizer.decode([i])
    ]


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
        max_token_length=_TOKEN_BYTES_MAX,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )


def _added(contents: tuple[str, ...], *, special: bool) -> list[AddedToken]:
    return [AddedToken(content, normalized=False, special=special) for content in contents]
