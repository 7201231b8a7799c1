"""Makes a vision-language model of a few MB with random weights, for the CPU engine.

    python -m tests.tiny_vision DIRECTORY

The architecture is Qwen2.5-VL's, and the tokenizer and template are those of the demo models. The
model reads images and writes nonsense.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from serve_app import demo

SEED = 5
PATCH, MERGE = 14, 2
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")
TEXT: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 8192,
    "vocab_size": 2048,
    "rope_parameters": {
        "rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 6, 6],
    },
    "tie_word_embeddings": True,
}  # fmt: skip
TOWER: dict[str, Any] = {
    "depth": 2,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_heads": 2,
    "out_hidden_size": 128,
    "patch_size": PATCH,
    "spatial_merge_size": MERGE,
    "fullatt_block_indexes": [1],
}
PREPROCESSOR: dict[str, Any] = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "processor_class": "Qwen2_5_VLProcessor",
    "min_pixels": 3136,
    "max_pixels": 12_845_056,
    "patch_size": PATCH,
    "temporal_patch_size": 2,
    "merge_size": MERGE,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


def write_tiny_vision(directory: Path) -> Path:
    """Every file that an engine needs."""
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    tokens = _special_tokens(demo.locate("fast"))
    torch.manual_seed(SEED)
    config = Qwen2_5_VLConfig(
        text_config={**TEXT, **tokens["text"]},
        vision_config=TOWER,
        tie_word_embeddings=True,
        **tokens["model"],
    )
    model = Qwen2_5_VLForConditionalGeneration(config).to(torch.bfloat16)
    model.save_pretrained(directory)
    for name in TOKENIZER_FILES:
        shutil.copyfile(demo.locate("fast") / name, directory / name)
    text = json.dumps(PREPROCESSOR, indent=2)
    (directory / "preprocessor_config.json").write_text(text + "\n", encoding="utf-8")
    return directory


def _special_tokens(checkpoint: Path) -> dict[str, dict[str, int]]:
    """The ids by which the text names its images."""
    added = json.loads((checkpoint / "tokenizer.json").read_text(encoding="utf-8"))["added_tokens"]
    ids = {token["content"]: token["id"] for token in added}
    model = {
        f"{name}_token_id": ids[f"<|{mark}|>"]
        for name, mark in (
            ("image", "image_pad"),
            ("video", "video_pad"),
            ("vision_start", "vision_start"),
            ("vision_end", "vision_end"),
        )
    }
    end = {"bos_token_id": ids["<|endoftext|>"], "eos_token_id": ids["<|im_end|>"]}
    return {"model": model, "text": end}


if __name__ == "__main__":
    print(write_tiny_vision(Path(sys.argv[1])))
