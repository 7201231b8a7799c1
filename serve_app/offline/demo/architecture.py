"""The shapes of the demo models and the configuration files that state them."""

from dataclasses import dataclass

VOCAB_SIZE = 2048


@dataclass(frozen=True)
class Architecture:
    """A Qwen3 in small; every count divides by two, so that tensor parallelism can split it."""

    hidden_size: int
    intermediate_size: int
    layers: int
    attention_heads: int
    key_value_heads: int
    head_dim: int


_READER = Architecture(
    hidden_size=64,
    intermediate_size=128,
    layers=2,
    attention_heads=4,
    key_value_heads=2,
    head_dim=32,
)
"""Of the two that read (`retrieval.py`)."""

ARCHITECTURES = {
    "fast": Architecture(
        hidden_size=128,
        intermediate_size=512,
        layers=4,
        attention_heads=4,
        key_value_heads=2,
        head_dim=32,
    ),
    "strong": Architecture(
        hidden_size=288,
        intermediate_size=1024,
        layers=6,
        attention_heads=8,
        key_value_heads=4,
        head_dim=32,
    ),
    "embed": _READER,
    "rerank": _READER,
}


def render_config(
    architecture: Architecture, end_of_text_id: int, eos_id: int
) -> dict[str, object]:
    """config.json with the keys of the released Qwen3 checkpoints."""
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": end_of_text_id,
        "eos_token_id": eos_id,
        "head_dim": architecture.head_dim,
        "hidden_act": "silu",
        "hidden_size": architecture.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": architecture.intermediate_size,
        "max_position_embeddings": 32768,
        "max_window_layers": architecture.layers,
        "model_type": "qwen3",
        "num_attention_heads": architecture.attention_heads,
        "num_hidden_layers": architecture.layers,
        "num_key_value_heads": architecture.key_value_heads,
        "rms_norm_eps": 1e-6,
        "rope_scaling": None,
        "rope_theta": 10_000.0,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": VOCAB_SIZE,
    }


def render_generation_config(end_of_text_id: int, eos_id: int) -> dict[str, object]:
    """Little chance by default, as answers are right or wrong here; but `n: 2` gives two."""
    return {
        "bos_token_id": end_of_text_id,
        "do_sample": True,
        "eos_token_id": [eos_id, end_of_text_id],
        "pad_token_id": end_of_text_id,
        "temperature": 0.2,
    }
